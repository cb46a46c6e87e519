"""Renders pairs in the queue's thread: loads the model, finds or makes the baseline, and compares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from accel.app.byte_lru import ByteLRU
from accel.app.costs import Costs
from accel.app.dry_run import DryRun
from accel.app.inputs import call_with_inputs, lacks_picture
from accel.app.job_stream import sentence
from accel.app.limits import Limits
from accel.app.models import LoadedModel, ModelPool, verifier_of
from accel.app.pair import Cancelled, Pair, SeedDraft, Side, Update
from accel.app.settings import StudioSettings
from accel.app.sweep import SweepPoint
from accel.app.timed_run import TimedRun, make_pair, run_timed
from accel.app.watch import Guard, guard_run
from accel.measure.media import Pixels, to_pixels

Say = Callable[[Update], None]


@dataclass(frozen=True)
class StudioGoal:
    """What a tuning is for: one of a least PSNR in dB and a speed-up, and how long it may take."""

    min_psnr: float | None = None
    target_speedup: float | None = None
    minutes: float = 5.0


_PREPARED_STEPS = 3
_OF_ONE_PROMPT = "Found for this prompt, and judged with other seeds: nothing is promised of other prompts."
_TUNED_BY = ("prompt", "num_inference_steps")  # arguments that `tune` takes by other names


class Renderer:
    """Makes pairs. `pair` and `sweep` belong to the one thread that runs jobs; `kept_since` may be asked by any.

    folder: for the clips. fps: of the videos.
    """

    def __init__(self, limits: Limits, shelf: ModelPool, costs: Costs, folder: Path, fps: float) -> None:
        self._shelf, self._costs, self._folder, self._fps = shelf, costs, folder, fps
        self._baselines: ByteLRU[TimedRun] = ByteLRU(
            limits.baseline_bytes, lambda kept: kept.made.nbytes + kept.side.nbytes
        )

    def kept_since(self, settings: StudioSettings) -> float | None:
        """When the baseline of these settings was made, in seconds since 1970; None where it is not at hand."""
        kept = self._baselines.get(settings.baseline_key())
        return None if kept is None else kept.when

    def is_loaded(self, model: str, say: Say) -> LoadedModel:
        """The model, loaded if need be."""
        if self._shelf.has(model):
            return self._shelf.get(model)
        say(Update("loading", note=f"loading {model}"))
        held = self._shelf.get(model)
        self._costs.learn_model(model, DryRun(held.pipe))
        return held

    def prepare(self, settings: StudioSettings, say: Say, cancelled: Callable[[], bool]) -> None:
        """Loads the model and times a few steps of it, if it has all pictures to start from."""
        held = self.is_loaded(settings.model, say)
        self._shelf.admit(settings)
        if lacks_picture(held.pipe, settings):
            return
        few = replace(settings.unaccelerated, steps=min(_PREPARED_STEPS, settings.steps))
        self._costs.learn_baseline(settings, self._take(held, few, "baseline", say, cancelled, 0.0).side)

    def sweep(
        self,
        base: StudioSettings,
        points: Sequence[SweepPoint],
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

            def told(update: Update, left: Sequence[StudioSettings] = left) -> None:
                seconds = self._also(update.seconds_left, left)
                place = (len(points) - len(left), len(points))
                say(replace(update, points=tuple(pairs), seconds_left=seconds, number=place[0], of=place[1]))

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

    def tune(
        self, settings: StudioSettings, goal: StudioGoal, say: Say, cancelled: Callable[[], bool]
    ) -> tuple[StudioSettings, str]:
        """The settings with the recipe that was searched for, and what there is to say about it.

        Where the goal cannot be met it is the recipe that comes nearest. Raises ValueError where there is none.
        """
        from accel.tuning import GoalNotMet, tune

        held, begun = self.is_loaded(settings.model, say), time.monotonic()
        self._shelf.admit(settings)

        def tell(line: str) -> None:
            left = max(0.0, 60.0 * goal.minutes - (time.monotonic() - begun))
            say(Update("accelerated", seconds_left=left, note=line))

        with call_with_inputs(held.pipe, settings.job()) as given, guard_run(held.pipe, Guard(cancelled)):
            try:
                recipe = tune(
                    held.pipe,
                    [settings.prompt],
                    min_psnr=goal.min_psnr,
                    target_speedup=goal.target_speedup,
                    seed=settings.seed,
                    steps=settings.steps,
                    minutes=goal.minutes,
                    call_arguments={name: value for name, value in given.items() if name not in _TUNED_BY},
                    tell=tell,
                )
            except GoalNotMet as error:
                if error.nearest is None:
                    raise
                return replace(settings, recipe=replace(error.nearest, name="nearest")), sentence(error)
        return replace(settings, recipe=replace(recipe, name="tuned")), _OF_ONE_PROMPT

    def drafts(
        self, settings: StudioSettings, seeds: Sequence[int], say: Say, cancelled: Callable[[], bool]
    ) -> tuple[SeedDraft, ...]:
        """What each seed becomes, seen after a tenth of its evaluations or a little more (`accel.draft`)."""
        from accel.drafting.drafts import draft

        found: tuple[SeedDraft, ...] = ()
        with self._seeds_call(settings, say) as (pipe, given):
            for number, seed in enumerate(seeds):
                say(Update("accelerated", number, len(seeds), drafts=found, note=f"seed {seed}"))
                with guard_run(pipe, Guard(cancelled)):
                    frames = draft(pipe, settings.prompt, seed=seed, **given).frames
                found = (*found, SeedDraft(seed, to_pixels(frames[len(frames) // 2])))
        return found

    def best_seed(
        self, settings: StudioSettings, seeds: Sequence[int], say: Say, cancelled: Callable[[], bool]
    ) -> tuple[StudioSettings, str]:
        """The settings with the seed that a verifier likes best (`accel.best_of`), and what there is to say about it.

        Raises ValueError for models that no verifier is known for.
        """
        from accel.drafting.best_seed import best_of

        verifier = verifier_of(settings.model)
        with self._seeds_call(settings, say) as (pipe, given), guard_run(pipe, Guard(cancelled)):
            say(Update("accelerated", note=f"{len(seeds)} seeds, the worse half dropped after each look"))
            found = best_of(pipe, settings.prompt, seeds=seeds, verifier=verifier, **given)
        return replace(settings, seed=found.seed), f"Best: {found}."

    @contextmanager
    def _seeds_call(self, settings: StudioSettings, say: Say) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The pipeline, and what its call is given beside prompt and noise."""
        held = self.is_loaded(settings.model, say)
        self._shelf.admit(settings)
        with call_with_inputs(held.pipe, settings.job()) as given:
            yield held.pipe, {name: value for name, value in given.items() if name != "prompt"}

    def pair(self, base: StudioSettings, point: SweepPoint, say: Say, cancelled: Callable[[], bool]) -> Pair:
        """One point against the baseline of `base`, which is rendered unless it is at hand."""
        held = self.is_loaded(point.settings.model, say)
        for settings in (base, point.settings):
            self._shelf.admit(settings)
        baseline = self._baselines.get(base.baseline_key())
        reused = baseline is not None
        if baseline is None:
            after = self._costs.predict(point.settings).seconds_accelerated
            baseline = self._take(held, base.unaccelerated, "baseline", say, cancelled, after)
            self._baselines.put(base.baseline_key(), baseline)
            self._costs.learn_baseline(base, baseline.side)
        accelerated = self._take(held, point.settings, "accelerated", say, cancelled, 0.0)
        pace = self._pace(held, base, baseline.side, say, cancelled) if reused else 1.0
        say(Update("measuring", note="comparing the clips"))
        pair = make_pair(base, point, baseline, accelerated, reused=reused, fps=self._fps, pace=pace)
        if not point.changed_fields(base):
            self._costs.learn_pair(point.settings, baseline.side, accelerated.side)
        return pair

    def _pace(
        self, held: LoadedModel, base: StudioSettings, then: Side, say: Say, cancelled: Callable[[], bool]
    ) -> float:
        """How many times as long an unaccelerated step takes now as when `then` was made: a few are taken. On a busy
        machine even processor time is longer, because others share its caches.
        """
        say(Update("measuring", note="timing a few unaccelerated steps"))
        few = replace(base.unaccelerated, steps=min(_PREPARED_STEPS, base.steps))
        now = self._take(held, few, "baseline", lambda update: None, cancelled, 0.0).side
        return (now.effort("denoise") / now.steps) / max(then.effort("denoise") / then.steps, 1e-9)

    def _take(
        self,
        held: LoadedModel,
        settings: StudioSettings,
        stage: Literal["baseline", "accelerated"],
        say: Say,
        cancelled: Callable[[], bool],
        after: float | None,
    ) -> TimedRun:
        """One side. `after`: the seconds of what comes after it, as far as they are known."""
        say(Update(stage, 0, settings.steps, note="warming up"))
        begun = 0.0

        def tell(step: int, steps: int, preview: Pixels | None) -> None:
            nonlocal begun
            begun = begun or time.perf_counter()
            done = time.perf_counter() - begun
            left = done / (step - 1) * (steps - step + 1) + (after or 0.0) if 1 < step <= steps else None
            say(Update(stage, step, steps, seconds_left=left, preview=preview))

        return run_timed(held, settings, self._folder, self._fps, cancelled, tell)

    def _also(self, seconds: float | None, left: Sequence[StudioSettings]) -> float | None:
        """And the time of the points that are left, where that is known."""
        costs = [self._costs.predict(settings).seconds_accelerated for settings in left]
        return None if seconds is None else seconds + sum(cost for cost in costs if cost is not None)
