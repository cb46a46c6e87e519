"""The greatest speed at which a promise is kept, beside other libraries: `python -m benchmarks.speeds`.

Every judge that another library attaches to runs at 50 steps and its higher guidance scale, each setting beside an
unaccelerated clip of its own (processor time). Ours: the cache alone, the presets, and recipes that also take fewer
steps (`composed`), each also with a calibration from one other prompt, and schedules that were fitted to six others
(`fitted`). Theirs: all settings of `benchmarks.rivals`, and the same in fewer steps. Everybody's setting is chosen in
hindsight, on the clips that are shown. A setting that has missed the lowest promise in too many clips is not run on the
rest.

Runs are kept in OUT as they end; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import accel
from accel.anatomy import inspect
from accel.caching import Calibration
from accel.caching.calibration.measuring import Measurement
from accel.caching.methods.fitted_schedule import FittedSchedule
from accel.caching.methods.planned_deepcache import PlannedDeepCache
from accel.caching.methods.schedules import OptimalSchedule
from accel.lever import InactiveLever
from accel.presets import PRESETS
from accel.recipe import Recipe
from accel.samplers.solvers import SchedulerSolver
from benchmarks.command import add_judges
from benchmarks.fastest import CALIBRATED, FITTED, IN_FEWER, KEPT, Speeds, judged, table
from benchmarks.judged_runs import Bench, cases, kept_in, read
from benchmarks.judges import JUDGES
from benchmarks.rivals import Attach, rivals

MEASURED = 99  # the number of the prompt that calibrations come from; those that are judged come first
COMPUTED = (33, 25, 20, 16, 13, 11, 9, 7)  # of 50 steps
SHALLOW = (25, 22, 21, 20, 19, 18, 16)  # of which every other runs shallow layers alone, where there is a U-Net
PART = 4  # prompts of a setting that run before it is asked whether it can keep the promise
HALF = "every other shallow"
FEWER = (0.5, 0.3)  # shares of the steps that composed recipes take, and other libraries beside all
FITTED_TO = range(MEASURED - 5, MEASURED + 1)  # the numbers of the prompts that schedules are fitted to
FITTED_COUNTS = (20, 16, 13, 11, 9, 7, 6, 5)  # computed steps of those
PROMISES = (40.0, 30.0)  # dB
AGAIN = "again"  # the folder of the speeds that were measured once more


def ours(steps: int) -> dict[str, Recipe]:
    """Recipes by "kind: setting"."""
    found = {f"cache: {count}": Recipe(cache=OptimalSchedule(count / steps)) for count in COMPUTED}
    found |= {f"cache: {count}, {HALF}": Recipe(cache=PlannedDeepCache(count / steps)) for count in SHALLOW}
    found |= {f"preset: {name}": preset.recipe for name, preset in PRESETS.items()}
    for share in FEWER:
        taken, sampler = round(share * steps), SchedulerSolver(steps=share)
        for count in (count for count in COMPUTED if count < taken - 1):
            cache = OptimalSchedule(count / taken)
            found[f"composed: {count} of {taken} steps"] = Recipe(cache=cache, sampler=sampler)
        for count in (count for count in SHALLOW if count < taken - 1):
            cache = PlannedDeepCache(count / taken)
            found[f"composed: {count} of {taken} steps, {HALF}"] = Recipe(cache=cache, sampler=sampler)
    return found


class Setting(NamedTuple):
    """How one setting is attached to a pipeline, and in how many steps it is called. recipe: of our own ones."""

    attach: Attach
    steps: int
    recipe: Recipe | None = None
    calibration: Calibration | None = None


def settings(pipe: Any, steps: int, calibration: Calibration | None) -> dict[str, Setting]:
    """All of ours, then all of theirs, by label."""
    found, anatomy = dict[str, Setting](), inspect(pipe)
    for label, recipe in ours(steps).items():
        if recipe.cache is None or isinstance(recipe.cache.build(anatomy), InactiveLever):
            continue
        kind, _, setting = label.partition(": ")
        for name, measured in ((label, None), (f"{kind}{CALIBRATED}: {setting}", calibration)):
            attach = functools.partial(_attach, recipe=recipe, calibration=measured)
            found[name] = Setting(attach, steps, recipe, measured)
    for label, rival in rivals(pipe):
        name, _, setting = label.partition(": ")
        found[label] = Setting(rival, steps)
        for share in FEWER:
            taken = round(share * steps)
            found[f"{name}{IN_FEWER}: {setting}, {taken} steps"] = Setting(rival, taken)
    return found


def fitted(bench: Bench) -> dict[str, Setting]:
    """Schedules that are fitted to prompts which are not judged."""
    steps, found = bench.case.steps, dict[str, Setting]()
    measurement = Measurement(bench.pipe, [functools.partial(bench.clip, number, steps) for number in FITTED_TO])
    targets = measurement.targets()
    for count in FITTED_COUNTS:
        recipe = Recipe(cache=measurement.fitted(FittedSchedule(count / steps), targets))
        attach = functools.partial(_attach, recipe=recipe, calibration=None)
        found[f"{FITTED}: {count}"] = Setting(attach, steps, recipe)
    return found


def _attach(pipe: Any, recipe: Recipe, calibration: Calibration | None) -> Callable[[], None]:
    return accel.accelerate(pipe, recipe, calibration=calibration).restore


def _nothing(pipe: Any) -> Callable[[], None]:
    return lambda: None


def measure(bench: Bench, prompts: range, kinds: Sequence[str] = ()) -> None:
    """All settings on one judge, or those of these kinds, and then the fastest once more, because only their speeds are
    shown.
    """
    steps = bench.case.steps
    for prompt in prompts:
        for count in dict.fromkeys((steps, *(round(share * steps) for share in FEWER), *COMPUTED)):
            bench.fewer(count, prompt)
    with accel.calibrating(bench.pipe) as calibration:
        bench.clip(MEASURED, steps)
    found = settings(bench.pipe, steps, calibration) | fitted(bench)
    for label in [label for label in found if kinds and label.partition(":")[0] not in kinds]:
        del found[label]
    for label, setting in found.items():
        run_while_kept(bench, label, setting, prompts)
    time_again(bench, found)


def run_while_kept(bench: Bench, label: str, setting: Setting, prompts: range) -> None:
    """One setting on these prompts, or on as many as show that it does not keep the lowest promise."""
    allowed = round((1.0 - KEPT) * len(prompts), 6)
    for part in (prompts[first : first + PART] for first in range(0, len(prompts), PART)):
        if bench.below(label, min(PROMISES)) > allowed:
            return
        if setting.recipe is not None:
            bench.ours(label, setting.recipe, part, setting.calibration)
        else:
            bench.theirs(label, setting.attach, part, setting.steps)


def time_again(bench: Bench, found: Mapping[str, Setting]) -> None:
    """The speeds of the fastest of each kind once more, in pairs. Clips of a busy machine take up to twice as long as
    others, and who has more settings would win by luck.
    """
    folder = bench.folder / AGAIN
    again = [run for run in read(folder) if run.case == bench.case]
    kept = kept_in(folder / f"{bench.case.judge}.jsonl")
    judge = Speeds([run for run in read(bench.folder) if run.case == bench.case], again)
    for label in dict.fromkeys(label for promise in sorted(PROMISES) for label in judge.finalists(promise)):
        attach, steps, *_ = found.get(label) or Setting(_nothing, int(label.split()[-2]))
        bench.again(label, attach, judge.untimed(label), steps, kept)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The greatest speed at which a promise is kept, by everybody.")
    add_judges(parser, JUDGES, ("cells", "films", "photos", "waves"))
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--kinds", nargs="*", default=[], metavar="KIND", help="such as fitted; all by default")
    parser.add_argument("--table", action="store_true", help="only print what the runs so far say")
    parser.add_argument("--out", type=Path, default=Path("out/speeds"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in () if options.table else options.names:
        case = cases([name])[0]
        # A file for each judge, so that two commands with different ones may run at once.
        measure(Bench(case, options.out / f"{name}.jsonl", speeds=True), range(options.prompts), options.kinds)
        print(f"{case}: done", flush=True)
    for promise in PROMISES:
        print("\n" + "\n".join(table(judged(read(options.out), read(options.out / AGAIN)), promise)))


if __name__ == "__main__":
    main()
