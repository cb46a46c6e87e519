"""How near a tuned recipe comes to what hindsight knows: every setting of every single lever, judged by the same
promise on many prompts that no tuning has seen.

`python -m benchmarks.hindsight` (`make hindsight`) tunes a pocket model, sweeps, and writes the table. The sweep may
look at the prompts that it is judged on, and the tuner may not, so a tie is as good as it gets.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from accel import pocket
from accel.anatomy import inspect
from accel.files import write_whole
from accel.loading import load_pipeline
from accel.measure.call_arguments import call_arguments_of
from accel.measure.comparison import compare
from accel.measure.metrics import psnr
from accel.measure.pipeline_runs import without_progress_bars
from accel.recipe import Recipe
from accel.tuning.api import tune
from accel.tuning.clip_split import PromptSeed
from accel.tuning.goal import SLACK, may_break
from accel.tuning.narrowing import acting
from accel.tuning.simulate import Simulator
from accel.tuning.space import KEEPING, Candidate, Recipes, Space, Structure, space_of
from accel.tuning.trials import TrialRunner

TUNED = "tuned"
TIMED = 6  # clips on which the speeds are compared


@dataclass(frozen=True)
class Judged:
    """One recipe on the prompts: how many of those that were run keep the promise. A setting that has broken it too
    often is not run on the others."""

    label: str
    recipe: Recipe
    values: tuple[float, ...]
    kept: int
    passed: bool
    speedup: float = math.nan


def judge(
    label: str, recipe: Recipe, run: Callable[[Recipe, int], float], prompts: int, least: float, coverage: float
) -> Judged:
    """Runs a recipe prompt by prompt, until more have broken the promise than may."""
    allowed = may_break(prompts, coverage)
    values: list[float] = []
    for index in range(prompts):
        values.append(run(recipe, index))
        if sum(value < least for value in values) > allowed:
            break
    broken = sum(value < least for value in values)
    return Judged(label, recipe, tuple(values), len(values) - broken, broken <= allowed)


def single_levers(space: Space) -> list[Structure]:
    """The structures with one lever on."""
    return [structure for structure in space.structures() if len(structure.names()) == 1]


def sweep(
    space: Space, recipes: Recipes, judged: Callable[[str, Recipe], Judged], tell: Callable[[str], None]
) -> list[Judged]:
    """Of every single lever the fastest setting that keeps the promise: each dial is turned from little to much, until
    one does. Those that never do are there with their last try."""
    found = []
    for structure in single_levers(space):
        last: Judged | None = None
        for share in sorted(space.dials(structure)):
            candidate = Candidate(structure, share)
            recipe = recipes.of(candidate)
            if recipe is None:
                continue
            last = judged(str(candidate), recipe)
            tell(f"{last.label}: {last.kept} of {len(last.values)}")
            if last.passed:
                break
        if last is not None:
            found.append(last)
    return found


def measure(
    pipe: Any,
    tuned: Recipe,
    foresight: Simulator,
    prompts: Sequence[str],
    folder: Path,
    *,
    limit: float,
    steps: int,
    call_arguments: Mapping[str, Any],
    coverage: float = 0.95,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Judged]:
    """The tuned recipe, and the best of each single lever; speed-ups, interleaved, of those that keep the promise."""
    every = space_of(inspect(pipe), foresight.calibration, steps, bool(foresight.passes), KEEPING, generic=False)
    shots = [PromptSeed(prompt, seed) for seed, prompt in enumerate(prompts)]
    arguments = call_arguments_of(pipe, call_arguments)
    identity = {"judged": "hindsight", "arguments": {key: repr(value) for key, value in arguments.items()}}
    with without_progress_bars(pipe):
        lab = TrialRunner(pipe, shots, steps, arguments, {"psnr": psnr}, folder, identity)
        lab.warm_up()
        space, _ = acting(every, lab, tell)

        def run(recipe: Recipe, shot: int) -> float:
            return lab.trial(recipe, shot).values["psnr"]

        def judged(label: str, recipe: Recipe) -> Judged:
            return judge(label, recipe, run, len(shots), limit - SLACK["psnr"], coverage)

        found = [judged(TUNED, tuned), *sweep(space, Recipes(foresight.calibration, steps), judged, tell)]
    tell("comparing speeds")
    fast = [one for one in found if one.passed or one.label == TUNED]
    comparison = compare(
        pipe, [(one.label, one.recipe) for one in fast], prompts[:TIMED], steps=steps, call_arguments=call_arguments,
        fewer_steps=False, progress=False,
    )  # fmt: skip
    return [replace(one, speedup=comparison.row(one.label).speedup) if one in fast else one for one in found]


def text_of(found: Sequence[Judged], limit: float, prompts: int) -> str:
    """The table, the fastest first, and a sentence."""
    least = limit - SLACK["psnr"]
    width = max(len(one.label) for one in found) + 2
    lines = [f"{'setting':<{width}}{'kept':>10}{'mean':>7}{'worst':>7}{'speed-up':>10}"]
    for one in sorted(found, key=lambda one: -one.speedup if one.passed else math.inf):
        kept = f"{one.kept} of {len(one.values)}"
        speed = "" if math.isnan(one.speedup) else f"{one.speedup:.2f}x"
        lines.append(f"{one.label:<{width}}{kept:>10}{fmean(one.values):>7.1f}{min(one.values):>7.1f}{speed:>10}")
    tuned = next(one for one in found if one.label == TUNED)
    others = [one for one in found if one.label != TUNED and one.passed]
    best = max(others, key=lambda one: one.speedup, default=None)
    text = f"{limit:g} dB: the tuned recipe keeps {least:g} dB on {tuned.kept} of {prompts} prompts"
    if best is not None:
        text += f" at {tuned.speedup:.2f}x; the best single lever in hindsight, {best.label}, has {best.speedup:.2f}x"
    return "\n".join([*lines, "", text + "."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="pocket:video")
    parser.add_argument("--out", type=Path, default=Path("out/hindsight"))
    parser.add_argument("--quality", type=float, default=30.0, help="PSNR to tune for")
    parser.add_argument("--minutes", type=float, default=6.0, help="for the tuning")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, help="the pipeline's own where left out")
    parser.add_argument("--tuning", type=int, default=30, help="prompts to tune with")
    parser.add_argument("--prompts", type=int, default=40, help="prompts to judge on")
    options = parser.parse_args()
    pipe = load_pipeline(options.model)
    arguments = {} if options.guidance is None else {"guidance_scale": options.guidance}
    tell = functools.partial(print, flush=True)
    tuning, journal = pocket.prompts(options.tuning), options.out / "search"
    tuned = tune(
        pipe, tuning, min_psnr=options.quality, steps=options.steps, minutes=options.minutes, journal=journal,
        call_arguments=arguments, tell=tell,
    )  # fmt: skip
    foresight = Simulator.load(journal, inspect(pipe))
    if foresight is None:
        raise SystemExit(f"{journal} has no recording; delete the folder and try again.")
    unseen = [prompt for prompt in pocket.prompts(options.prompts + options.tuning, 99) if prompt not in tuning]
    found = measure(
        pipe, tuned, foresight, unseen[: options.prompts], options.out / "judged", limit=options.quality,
        steps=options.steps, call_arguments=arguments, tell=tell,
    )  # fmt: skip
    text = text_of(found, options.quality, options.prompts)
    print(text)
    write_whole(options.out / "hindsight.txt", f"{tuned.evidence['candidate']} for {options.model}\n\n{text}\n")


if __name__ == "__main__":
    main()
