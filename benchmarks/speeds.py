"""The greatest speed at which a promise is kept, beside other libraries: `python -m benchmarks.speeds`.

Every judge that another library attaches to runs at 50 steps and its higher guidance scale, each setting beside an
unaccelerated clip of its own (processor time). Ours: the cache alone, the presets, and recipes that also take fewer
steps (`composed`), each also with a calibration from one other prompt. Theirs: all settings of `benchmarks.rivals`, and
the same in fewer steps. Everybody's setting is chosen in hindsight, on the clips that are shown.

Runs are kept in OUT as they end; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import accel
from accel.caching.methods.schedules import OptimalSchedule
from accel.presets import PRESETS
from accel.recipe import Recipe
from accel.samplers.solvers import SchedulerSolver
from benchmarks.command import add_judges
from benchmarks.judged_runs import PLAIN, Bench, Case, Run, cases, fewer, known_runs, read
from benchmarks.judges import JUDGES
from benchmarks.rivals import rivals

KEPT = 0.95  # the share of clips that a promise is kept in
MEASURED = 9  # the number of the prompt that calibrations come from; those that are judged come first
COMPUTED = (33, 25, 20, 16, 13, 11, 9, 7)  # of 50 steps
FEWER = (0.5, 0.3)  # shares of the steps that composed recipes take, and other libraries beside all
OURS = ("cache", "preset", "composed")
CALIBRATED = ", calibrated"
IN_FEWER = " in fewer steps"


def ours(steps: int) -> dict[str, Recipe]:
    """Recipes by "kind: setting"."""
    found = {f"cache: {count}": Recipe(cache=OptimalSchedule(count / steps)) for count in COMPUTED}
    found |= {f"preset: {name}": preset.recipe for name, preset in PRESETS.items()}
    for share in FEWER:
        taken = round(share * steps)
        for count in (count for count in COMPUTED if count < taken - 1):
            cache, sampler = OptimalSchedule(count / taken), SchedulerSolver(steps=share)
            found[f"composed: {count} of {taken} steps"] = Recipe(cache=cache, sampler=sampler)
    return found


def measure(bench: Bench, prompts: range) -> None:
    """All settings on one judge."""
    steps = bench.case.steps
    for prompt in prompts:
        for count in dict.fromkeys((steps, *(round(share * steps) for share in FEWER), *COMPUTED)):
            bench.fewer(count, prompt)
    with accel.calibrating(bench.pipe) as calibration:
        bench.clip(MEASURED, steps)
    for label, recipe in ours(steps).items():
        bench.ours(label, recipe, prompts)
        kind, _, setting = label.partition(": ")
        bench.ours(f"{kind}{CALIBRATED}: {setting}", recipe, prompts, calibration)
    for label, attach in rivals(bench.pipe):
        name, _, setting = label.partition(": ")
        bench.theirs(label, attach, prompts, steps)
        for share in FEWER:
            taken = round(share * steps)
            bench.theirs(f"{name}{IN_FEWER}: {setting}, {taken} steps", attach, prompts, taken)


class Fastest(NamedTuple):
    """The fastest setting of some kinds that keeps a promise."""

    speed: float
    setting: str

    def __str__(self) -> str:
        return f"{self.speed:.2f}x ({self.setting})" if self.setting else "none"


class Speeds:
    """What the runs of one judge say."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._by: dict[str, list[Run]] = {}
        for run in runs:
            self._by.setdefault(run.setting, []).append(run)
        self.case = runs[0].case
        self._whole = fewer(self.case.steps)

    @property
    def theirs(self) -> list[str]:
        """The other libraries that ran."""
        own = {PLAIN, *(f"{kind}{end}" for kind in OURS for end in ("", CALIBRATED))}
        kinds = dict.fromkeys(setting.partition(":")[0].removesuffix(IN_FEWER) for setting in self._by)
        return [kind for kind in kinds if kind not in own]

    def fastest(self, kinds: Sequence[str], promise: float) -> Fastest:
        """Of these kinds, by settings that ran on every prompt."""
        kept = [
            Fastest(self.speed(runs), setting)
            for setting, runs in self._by.items()
            if setting.partition(":")[0] in kinds and setting != self._whole
            if len(runs) == len(self._by[self._whole])
            if np.mean([run.psnr >= promise for run in runs]) >= KEPT
        ]
        return max(kept, default=Fastest(1.0, ""))

    def speed(self, runs: Sequence[Run]) -> float:
        """Times as fast as the unaccelerated clips beside them."""
        return float(np.mean([run.beside for run in runs]) / np.mean([run.seconds for run in runs]))


def table(judges: Sequence[Speeds], promise: float) -> Iterator[str]:
    """A line for each judge."""
    kinds = {"cache alone": ["cache", "preset"], "composed": [*OURS]}
    kinds["composed, calibrated"] = [*OURS, *(f"{kind}{CALIBRATED}" for kind in OURS)]
    kinds["fewer steps"] = [PLAIN]
    titles = [*kinds, "best other library", "the same in fewer steps", "composed and calibrated over other libraries"]
    yield f"| at {promise:g} dB in {KEPT:.0%} of clips | {' | '.join(titles)} |"
    yield "| --- " * (1 + len(titles)) + "|"
    for judge in judges:
        found = [judge.fastest(some, promise) for some in kinds.values()]
        found += [judge.fastest([f"{kind}{end}" for kind in judge.theirs], promise) for end in ("", IN_FEWER)]
        *_, composed, calibrated, _, rival, _ = found
        times = f"{composed.speed / rival.speed:.2f}, {calibrated.speed / rival.speed:.2f}"
        yield f"| {judge.case} | {' | '.join(map(str, found))} | {times} |"


def judged(runs: Sequence[Run]) -> list[Speeds]:
    """By judge, those that another library ran on."""
    by: dict[Case, list[Run]] = {}
    for run in runs:
        by.setdefault(run.case, []).append(run)
    return [judge for judge in map(Speeds, by.values()) if judge.theirs]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The greatest speed at which a promise is kept, by everybody.")
    add_judges(parser, JUDGES, ("cells", "films", "photos", "waves"))
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--table", action="store_true", help="only print what the runs so far say")
    parser.add_argument("--out", type=Path, default=Path("out/speeds"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    known = known_runs(options.out)
    for name in () if options.table else options.names:
        case = cases([name])[0]
        # A file for each judge, so that two commands with different ones may run at once.
        measure(Bench(case, options.out / f"{name}.jsonl", known, speeds=True), range(options.prompts))
        print(f"{case}: done", flush=True)
    for promise in (40.0, 30.0):
        print("\n" + "\n".join(table(judged(read(options.out)), promise)))


if __name__ == "__main__":
    main()
