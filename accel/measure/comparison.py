"""Quality and wall-clock time of recipes against the same pipeline unaccelerated."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accel.call_forms import call_default
from accel.files import last_name
from accel.measure.by_lever import LeversApart, families, taken_apart
from accel.measure.call_arguments import call_arguments_of, fewest_steps_of, prompts_of, steps_of
from accel.measure.measurements import Variant, Verifier
from accel.measure.output import Metric
from accel.measure.pipeline_runs import check_seed, without_progress_bars
from accel.measure.progress import run_progress
from accel.measure.results import Comparison
from accel.measure.rows import summarise
from accel.measure.runner import Runner
from accel.measure.variants import contestants_of, equal_time_counts, explicit_counts, fewer_steps_of, groups_of


class ComparisonInterrupted(KeyboardInterrupt):
    """Ctrl-C during a comparison. `partial` holds what was measured until then, None before the first full
    round.
    """

    def __init__(self, partial: Comparison | None) -> None:
        super().__init__("the comparison was interrupted")
        self.partial = partial


def compare(
    pipe: Any,
    recipes: Sequence[Any] = ("balanced", "fast"),
    prompts: str | Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    *,
    steps: int | None = None,
    repeats: int = 1,
    call_arguments: Mapping[str, Any] | None = None,
    verify: Verifier | None = None,
    metrics: Mapping[str, Metric] | None = None,
    fewer_steps: bool | Sequence[int] = True,
    by_lever: bool = False,
    flops: bool = False,
    fps: float = 8.0,
    progress: bool = True,
) -> Comparison:
    """Measures `recipes` against the unaccelerated pipeline, and against fewer steps in the same time.

    One process. Every variant runs once briefly to warm up; then the unaccelerated pipeline and all recipes take turns
    on each prompt, seed and repeat, so that a machine that slows down slows all of them. In a second batch, interleaved
    in the same way, the unaccelerated pipeline runs with as many steps as fit in the time of each recipe.

    Args:
        pipe: a diffusers pipeline. It comes back as it was, accelerated or not, also after an error or Ctrl-C.
        recipes: each a preset name, a Recipe, a path to a recipe, or a pair (label, recipe). In a pair the recipe may
            also be a function that takes the pipeline, accelerates it in a way of its own and returns a function that
            undoes this: so other libraries are measured by the same protocol.
        prompts: one or more prompts; none for a pipeline that takes none, or gets it as `prompt_embeds`.
        seeds: each prompt runs once for each seed. Noise is drawn on the CPU.
        steps: number of inference steps; the pipeline's own default where left out.
        repeats: timed runs per prompt and seed. Quality is taken from the first.
        call_arguments: further arguments of every call, such as guidance_scale and height. Images may be paths.
        verify: function (frames, prompt) whose result has `.correct` (bool) and `.matches` (attribute to bool); frames
            are float32 (frames, height, width, 3) in [0, 1], of sound alone float32 (samples, channels).
        metrics: further functions (frames, unaccelerated frames) -> number by name; `Sample.quality.others` has them.
        fewer_steps: True measures the equal-time counts, a list of counts exactly these, False none.
        by_lever: run each recipe also without each of its levers, and each of these alone, interleaved with the whole:
            `Comparison.by_lever()`. Two levers take two variants more, any other number of them twice as many.
        flops: count the floating point operations of one run of each, which takes another run of each.
        fps: frames per second of the videos that `Comparison.save` writes.
        progress: show a progress bar.

    Raises ValueError or TypeError for bad arguments, and ComparisonInterrupted (a KeyboardInterrupt) with what was
    measured so far on Ctrl-C.
    """
    _check(pipe, recipes, seeds, repeats)
    arguments = call_arguments_of(pipe, call_arguments or {})
    texts = prompts_of(pipe, (prompts,) if isinstance(prompts, str) else prompts, arguments)
    count = steps_of(pipe, steps)
    contestants, apart = contestants_of(recipes, count), LeversApart()
    if by_lever:
        contestants, apart = taken_apart(contestants)
    explicit = explicit_counts(fewer_steps)
    first = [*contestants, *fewer_steps_of(explicit, contestants)]
    contest = Runner(pipe, texts, seeds, arguments, verify, metrics)
    equal_time: dict[int, list[str]] = {number: [] for number in explicit}
    everyone, rounds = list(first), len(texts) * len(seeds) * repeats

    def result() -> Comparison:
        return _result(contest, everyone, equal_time, apart, count, repeats, fps)

    for contestant in first:
        contest.check(contestant)
    try:
        groups = groups_of(first, families(apart))
        with without_progress_bars(pipe), run_progress(progress, rounds * sum(map(len, groups))) as (tick, extend):
            _get_ready(contest, first, flops, tick)
            for group in groups:
                contest.measure(group, repeats, tick)
            if fewer_steps is True:
                equal_time.update(equal_time_counts(result().rows, count, fewest_steps_of(pipe, arguments)))
                if second := fewer_steps_of(equal_time, contestants):
                    everyone += second
                    extend(rounds * (len(second) + 1))
                    contest.measure([contestants[0], *second], repeats, tick)
    except KeyboardInterrupt as interrupt:
        measured = {sample.label for sample in contest.ledger.samples}
        raise ComparisonInterrupted(result() if len(measured) > 1 else None) from interrupt
    return result()


def _get_ready(contest: Runner, contestants: Sequence[Variant], flops: bool, tick: Callable[[str, int], None]) -> None:
    for contestant in contestants:
        tick(f"warm-up: {contestant.label}", 0)
        contest.warm_up(contestant)
        if flops:
            tick(f"counting: {contestant.label}", 0)
            contest.count_flops(contestant)


def _check(pipe: Any, recipes: Sequence[Any], seeds: Sequence[int], repeats: int) -> None:
    if not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise TypeError(f"compare needs a diffusers pipeline, not {type(pipe).__name__}.")
    if isinstance(recipes, str) or not isinstance(recipes, Sequence) or not recipes:
        raise ValueError(f'recipes must be a list such as ["balanced", "fast"], not {recipes!r}.')
    if isinstance(seeds, str) or not seeds:
        raise ValueError(f"seeds must be one or more whole numbers, not {seeds!r}.")
    for seed in seeds:
        check_seed(seed)
    if type(repeats) is not int or repeats < 1:
        raise ValueError(f"repeats must be a whole number of at least 1, not {repeats!r}.")


def _result(
    contest: Runner,
    everyone: Sequence[Variant],
    equal_time: Mapping[int, Sequence[str]],
    apart: LeversApart,
    steps: int,
    repeats: int,
    fps: float,
) -> Comparison:
    """The comparison of everything measured so far."""
    from accel.measure.environment import environment

    ledger = contest.ledger
    measured = {sample.label for sample in ledger.samples}
    rows = [
        summarise(c.label, c.kind, c.steps, ledger, equal_time.get(c.steps, ()) if c.kind == "fewer_steps" else ())
        for c in everyone
        if c.label in measured
    ]
    return Comparison(
        rows=_ordered(rows),
        settings=_settings(contest, steps, repeats, fps),
        environment=environment(contest.pipe)
        | {"repeatable": ledger.is_repeatable, "energy": contest.energy.available},
        timelines=ledger.timelines,
        levers=ledger.levers,
        notes=ledger.notes,
        recipes=ledger.recipes,
        samples=ledger.samples,
        clips=ledger.clips,
        sounds=ledger.sounds,
        apart=apart,
    )


def _ordered(rows: list[Any]) -> list[Any]:
    """Each count of fewer steps under the first recipe it is as fast as, the others at the end."""
    fewer = [row for row in rows if row.kind == "fewer_steps"]
    ordered = []
    for row in rows:
        if row.kind != "fewer_steps":
            ordered += [row, *(f for f in fewer if row.label in f.equal_time_to[:1])]
    return ordered + [row for row in fewer if row not in ordered]


def _settings(contest: Runner, steps: int, repeats: int, fps: float) -> dict[str, Any]:
    arguments = contest.call_arguments
    guidance = arguments.get("guidance_scale", call_default(contest.pipe, "guidance_scale"))
    return {
        "pipeline": type(contest.pipe).__name__,
        "steps": steps,
        "guidance": guidance,
        **contest.ledger.size,
        "fps": fps,
        "prompts": list(contest.prompts),
        "seeds": list(contest.seeds),
        "repeats": repeats,
        "call_arguments": {name: _plain(value) for name, value in arguments.items()},
        "command": " ".join(map(last_name, sys.argv)),
    }


def _plain(value: Any) -> Any:
    """JSON data as it is, anything else by its type (an image, a tensor)."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return type(value).__name__
    return value
