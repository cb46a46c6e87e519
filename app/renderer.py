"""Renders pairs in the slot's thread: loads the model, finds or makes the baseline, and compares."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from accel.app.costs import Costs
from accel.app.keep import Keep
from accel.app.limits import Limits
from accel.app.order import sentence
from accel.app.pair import Cancelled, Pair, Update
from accel.app.rehearsal import Rehearsal
from accel.app.settings import Settings
from accel.app.shelf import Held, Shelf
from accel.app.sweeping import Point
from accel.app.take import Take, paired, take
from accel.app.watch import Guard, guarded
from accel.media import Pixels
from accel.rendering.calls import arguments_of

Say = Callable[[Update], None]


@dataclass(frozen=True)
class Goal:
    """What a tuning is for: one of a least PSNR in dB and a speed-up, and how long it may take."""

    min_psnr: float | None = None
    target_speedup: float | None = None
    minutes: float = 5.0


_PREPARED_STEPS = 3
_TUNED_BY = ("prompt", "num_inference_steps")  # arguments that `tune` takes by other names


class Renderer:
    """Makes pairs. `pair` and `sweep` belong to the one thread that runs jobs; `is_cached` may be asked by any.

    folder: for the clips. fps: of the films.
    """

    def __init__(self, limits: Limits, shelf: Shelf, costs: Costs, folder: Path, fps: float) -> None:
        self._shelf, self._costs, self._folder, self._fps = shelf, costs, folder, fps
        self._baselines: Keep[Take] = Keep(limits.baseline_bytes, lambda kept: kept.clip.nbytes + kept.side.nbytes)

    def is_cached(self, settings: Settings) -> bool:
        """Whether the baseline of these settings is at hand."""
        return settings.baseline_key() in self._baselines

    def held(self, model: str, say: Say) -> Held:
        """The model, loaded if need be."""
        if self._shelf.has(model):
            return self._shelf.get(model)
        say(Update("loading", note=f"loading {model}"))
        held = self._shelf.get(model)
        self._costs.learn_model(model, Rehearsal(held.pipe))
        return held

    def prepare(self, settings: Settings, say: Say, cancelled: Callable[[], bool]) -> None:
        """Loads the model and times a few steps of it."""
        held = self.held(settings.model, say)
        self._shelf.admitted(settings)
        few = replace(settings.unaccelerated, steps=min(_PREPARED_STEPS, settings.steps))
        self._costs.learn_baseline(settings, self._take(held, few, "baseline", say, cancelled, 0.0).side)

    def sweep(
        self,
        base: Settings,
        points: Sequence[Point],
        say: Say,
        cancelled: Callable[[], bool],
        keep: Callable[[Pair], None] = lambda pair: None,
    ) -> tuple[list[Pair], list[str]]:
        """Each point against the baseline of `base`, and a sentence for each point that failed.

        keep: is given each pair as soon as it is made.

        Raises what the last point raised where all fail, and Cancelled.
        """
        pairs: list[Pair] = []
        failures: list[str] = []
        for number, point in enumerate(points):
            left = [each.settings for each in points[number + 1 :]]

            def told(update: Update, left: Sequence[Settings] = left) -> None:
                say(replace(update, points=tuple(pairs), seconds_left=self._also(update.seconds_left, left)))

            try:
                pairs.append(self.pair(base, point, told, cancelled))
                keep(pairs[-1])
            except Cancelled:
                raise
            except Exception as error:
                if number + 1 == len(points) and not pairs:
                    raise
                failures.append(f"{point.label}: {sentence(error)}")
        return pairs, failures

    def tuned(self, settings: Settings, goal: Goal, say: Say, cancelled: Callable[[], bool]) -> tuple[Settings, str]:
        """The settings with the recipe that was searched for, and what there is to say about it.

        Where the goal cannot be met it is the recipe that comes nearest. Raises ValueError where there is none.
        """
        from accel.tuning import NotMet, tune

        held, job, begun = self.held(settings.model, say), settings.job(), time.monotonic()
        self._shelf.admitted(settings)
        given = {name: value for name, value in arguments_of(job).items() if name not in _TUNED_BY}

        def tell(line: str) -> None:
            left = max(0.0, 60.0 * goal.minutes - (time.monotonic() - begun))
            say(Update("accelerated", seconds_left=left, note=line))

        with guarded(held.pipe, Guard(cancelled)):
            try:
                recipe = tune(
                    held.pipe,
                    [settings.prompt],
                    min_psnr=goal.min_psnr,
                    target_speedup=goal.target_speedup,
                    seed=settings.seed,
                    steps=settings.steps,
                    minutes=goal.minutes,
                    call_arguments=given,
                    tell=tell,
                )
            except NotMet as error:
                if error.nearest is None:
                    raise
                return replace(settings, recipe=replace(error.nearest, name="nearest")), sentence(error)
        return replace(settings, recipe=replace(recipe, name="tuned")), ""

    def pair(self, base: Settings, point: Point, say: Say, cancelled: Callable[[], bool]) -> Pair:
        """One point against the baseline of `base`, which is rendered unless it is at hand."""
        held = self.held(point.settings.model, say)
        for settings in (base, point.settings):
            self._shelf.admitted(settings)
        baseline = self._baselines.get(base.baseline_key())
        reused = baseline is not None
        if baseline is None:
            after = self._costs.predict(point.settings).seconds_accelerated
            baseline = self._take(held, base.unaccelerated, "baseline", say, cancelled, after)
            self._baselines.put(base.baseline_key(), baseline)
            self._costs.learn_baseline(base, baseline.side)
        accelerated = self._take(held, point.settings, "accelerated", say, cancelled, 0.0)
        say(Update("measuring", note="comparing the clips"))
        pair = paired(base, point, baseline, accelerated, reused=reused, fps=self._fps)
        if not point.differs(base):
            self._costs.learn_pair(point.settings, baseline.side, accelerated.side)
        return pair

    def _take(
        self,
        held: Held,
        settings: Settings,
        stage: Literal["baseline", "accelerated"],
        say: Say,
        cancelled: Callable[[], bool],
        after: float | None,
    ) -> Take:
        """One side. `after`: the seconds of what comes after it, as far as they are known."""
        say(Update(stage, 0, settings.steps, note="warming up"))
        begun = 0.0

        def tell(step: int, steps: int, preview: Pixels | None) -> None:
            nonlocal begun
            begun = begun or time.perf_counter()
            done = time.perf_counter() - begun
            left = done / (step - 1) * (steps - step + 1) + (after or 0.0) if 1 < step <= steps else None
            say(Update(stage, step, steps, seconds_left=left, preview=preview))

        return take(held, settings, self._folder, self._fps, cancelled, tell)

    def _also(self, seconds: float | None, left: Sequence[Settings]) -> float | None:
        """And the time of the points that are left, where that is known."""
        costs = [self._costs.predict(settings).seconds_accelerated for settings in left]
        return None if seconds is None else seconds + sum(cost for cost in costs if cost is not None)
