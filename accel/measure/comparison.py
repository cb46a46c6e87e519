"""Quality and wall-clock time of recipes against the same pipeline unaccelerated."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accel.files import last_name
from accel.measure.by_lever import LeversApart, families, taken_apart
from accel.measure.measurements import BASELINE, Variant, Verifier, free_label
from accel.measure.output import Metric
from accel.measure.pipeline_runs import accepts, call_default, check_seed, needs_prompt, without_progress_bars
from accel.measure.results import Comparison, summarise
from accel.measure.runner import Runner
from accel.method import Method
from accel.recipe import Recipe
from accel.terminal import lines_now_and_then, one_line

GROUP = 6


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
    texts = _prompts(pipe, (prompts,) if isinstance(prompts, str) else prompts, arguments)
    count = steps_of(pipe, steps)
    contestants, apart = _contestants(recipes, count), LeversApart()
    if by_lever:
        contestants, apart = taken_apart(contestants)
    explicit = _explicit_counts(fewer_steps)
    first = [*contestants, *_fewer(explicit, contestants)]
    contest = Runner(pipe, texts, seeds, arguments, verify, metrics)
    equal_time: dict[int, list[str]] = {number: [] for number in explicit}
    everyone, rounds = list(first), len(texts) * len(seeds) * repeats

    def result() -> Comparison:
        return _result(contest, everyone, equal_time, apart, count, repeats, fps)

    for contestant in first:
        contest.check(contestant)
    try:
        groups = _groups(first, families(apart))
        with without_progress_bars(pipe), _progress(progress, rounds * sum(map(len, groups))) as (tick, extend):
            _get_ready(contest, first, flops, tick)
            for group in groups:
                contest.measure(group, repeats, tick)
            if fewer_steps is True:
                equal_time.update(_equal_time_counts(result(), count))
                if second := _fewer(equal_time, contestants):
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


def _groups(contestants: Sequence[Variant], together: Sequence[set[str]]) -> list[list[Variant]]:
    """The baseline with those that are compared with each other, or at most `GROUP` of the others, so that no run is
    far from the one that it is held against."""
    baseline, *others = contestants
    found = [[one for one in others if one.label in labels] for labels in together]
    rest = [one for one in others if not any(one.label in labels for labels in together)]
    return [[baseline, *group] for group in [*found, *(rest[at : at + GROUP] for at in range(0, len(rest), GROUP))]]


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


def _prompts(pipe: Any, prompts: Iterable[str], call_arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The prompts, and one that is empty where the call takes none."""
    prompts = tuple(prompts) if isinstance(prompts, Iterable) else ()
    if not needs_prompt(pipe, call_arguments):
        if any(prompts):
            raise TypeError(f"{type(pipe).__name__} takes no prompt in this call: leave the prompts out.")
        return ("",)
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError('prompts must be one or more strings, such as prompts=["a corgi surfing"].')
    return prompts


def steps_of(pipe: Any, steps: int | None) -> int:
    """The number of inference steps, by default the pipeline's own. Raises ValueError for an impossible one."""
    count = steps if steps is not None else call_default(pipe, "num_inference_steps")
    if type(count) is not int or count < 1:
        raise ValueError(f"steps must be a whole number of at least 1, not {count!r}.")
    return count


def call_arguments_of(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of every call besides prompt, steps and seed. Raises ValueError for those that it does not take."""
    from accel.rendering.inputs import read_inputs  # not before it is asked for: rendering measures, too

    if not isinstance(given, Mapping):
        raise TypeError(f'call_arguments must be a dictionary such as {{"guidance_scale": 5.0}}, not {given!r}.')
    reserved = sorted({"prompt", "num_inference_steps", "generator", "return_dict"} & set(given))
    if reserved:
        raise ValueError(f"call_arguments must not hold {', '.join(reserved)}; use prompts, steps and seeds instead.")
    unknown = sorted(name for name in given if not accepts(pipe, name))
    if unknown:
        raise ValueError(f"{type(pipe).__name__} takes no argument called {', '.join(unknown)}.")
    # Floats, so that rounding to 8 bits does not hide small differences.
    default = {"output_type": "np"} if accepts(pipe, "output_type") else {}
    return {**default, **read_inputs(given)}


def _explicit_counts(fewer_steps: bool | Sequence[int]) -> list[int]:
    if isinstance(fewer_steps, bool):
        return []
    counts = list(dict.fromkeys(fewer_steps))
    if not all(type(count) is int and count >= 1 for count in counts):
        raise ValueError(f"fewer_steps must be True, False or a list of whole numbers from 1, not {fewer_steps!r}.")
    return counts


def _contestants(recipes: Sequence[Any], steps: int) -> list[Variant]:
    found = [Variant(BASELINE, "baseline", steps, Recipe())]
    taken = {BASELINE}
    for entry in recipes:
        label, recipe = entry if isinstance(entry, tuple) and len(entry) == 2 else (_label(entry), entry)
        if not isinstance(label, str) or not label:
            raise ValueError(f"a recipe's label must be a string, not {label!r}.")
        if label in taken:
            raise ValueError(f"two recipes are called {label!r}; give each its own label with (label, recipe).")
        taken.add(label)
        found.append(Variant(label, "other" if callable(recipe) else "recipe", steps, _as_recipe(recipe)))
    return found


def _as_recipe(recipe: Any) -> Any:
    """A single method stands for the recipe with only this lever."""
    if recipe is None:
        raise TypeError(
            "a recipe is a preset, a Recipe, a method or a file, not None; with all levers off: accel.Recipe()."
        )
    if not isinstance(recipe, Method):
        return recipe
    levers: dict[str, Any] = {recipe.lever: recipe}
    return Recipe(**levers)


def _label(entry: Any) -> str:
    if isinstance(entry, (str, Path)):
        return Path(entry).stem
    return str(getattr(entry, "label", entry))


def _fewer(counts: Iterable[int], others: Sequence[Variant]) -> list[Variant]:
    taken = [one.label for one in others]
    return [Variant(free_label(f"{steps} steps", taken), "fewer_steps", steps, Recipe()) for steps in counts]


def _equal_time_counts(comparison: Comparison, steps: int) -> dict[int, list[str]]:
    """For each count of steps the recipes that take as long.

    The denoise-only speed-up decides: text encoding and decoding take the same time with any number of steps,
    so this is the count that makes the end-to-end times equal.
    """
    counts: dict[int, list[str]] = {}
    for row in comparison.rows:
        count = max(1, round(steps / row.denoise_speedup))
        if row.kind in ("recipe", "other") and count < steps:
            counts.setdefault(count, []).append(row.label)
    return counts


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


@contextmanager
def _progress(shown: bool, runs: int) -> Iterator[tuple[Callable[..., None], Callable[[int], None]]]:
    """A progress bar over `runs` runs as (tick(text, advance), extend(more))."""
    if not shown:
        yield (lambda text, advance=1: None), (lambda more: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # On stderr, so that the table can be piped.
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=runs)
        shown_task = bar.tasks[task]
        begun = False

        def tick(text: str, advance: int = 1) -> None:
            nonlocal begun
            bar.update(task, description=one_line(text), advance=advance if begun else 0)
            begun = begun or advance > 0

        def extend(more: int) -> None:
            total = bar.tasks[task].total or 0
            bar.update(task, total=total + more)

        with lines_now_and_then(
            lambda: f"{shown_task.completed:g} of {shown_task.total:g} runs; {shown_task.description}"
        ):
            yield tick, extend
        bar.update(task, description="done", completed=bar.tasks[task].total or 0)
