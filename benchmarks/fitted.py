"""What sums fitted along a model's own runs are worth: `python -m benchmarks.fitted`.

Every judge, scheduler, guidance scale and length: `FittedSchedule` is measured on some prompts and judged on others,
each with a seed of its own, beside `OptimalSchedule` with as many computed steps, which knows nothing of the model, and
clip by clip beside fewer steps with as many calls as were computed. Nothing in it was chosen on these judges but the
number of outputs in a sum and from which error on a run counts as rough.

Runs are kept in files of OUT as they end; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from accel.caching.calibration.measuring import Measurement
from accel.caching.methods.fitted_schedule import FittedSchedule
from accel.caching.methods.schedules import OptimalSchedule
from accel.recipe import Recipe
from benchmarks.command import add_judges
from benchmarks.holds import Tables
from benchmarks.judged_runs import Bench, Case, Run, cases, fewer, read
from benchmarks.judges import JUDGES

SHARES = (0.5, 0.28, 0.2)
FIRST = 9  # the number of the first prompt that is measured; those that are judged come before it
METHODS = {"fitted": FittedSchedule, "optimal": OptimalSchedule}


def measure(bench: Bench, prompts: int, measured: int) -> None:
    """The clips of one case that are not known yet."""
    judged = range(prompts)
    bench.plain(prompts, SHARES)
    for share in SHARES:
        bench.ours(f"optimal @ {share:g}", Recipe(cache=OptimalSchedule(share)), judged)
    wanted = [share for share in SHARES if not bench.knows(f"fitted @ {share:g}", judged)]
    if not wanted:
        return
    calls = [partial(bench.clip, number, bench.case.steps) for number in range(FIRST, FIRST + measured)]
    measurement = Measurement(bench.pipe, calls)
    targets = measurement.targets()
    for share in wanted:
        method = measurement.fitted(FittedSchedule(share), targets)
        bench.ours(f"fitted @ {share:g}", Recipe(cache=method), judged)


class FittedTable:
    """What the runs say."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._tables = Tables(runs)
        self.cases = self._tables.cases

    def lines(self) -> Iterator[str]:
        yield f"| judge, scheduler, guidance, steps | {' | '.join(map(str, SHARES))} |"
        yield "| --- " * (1 + len(SHARES)) + "|"
        for case in self.cases:
            yield f"| {case} | {' | '.join(self._cell(case, share) for share in SHARES)} |"

    def summary(self) -> Iterator[str]:
        """For each share, over all cases: gains above fewer steps in the mean and in the worst clip."""
        yield "| share | method | computed | mean gain, dB | of 3 dB | above | worst clip above | worst case, dB |"
        yield "| --- " * 8 + "|"
        for share in SHARES:
            for method in METHODS:
                found = [gains for case in self.cases if (gains := self.gains(case, method, share))]
                if found:
                    computed, mean, worst = np.asarray(found).T
                    yield (
                        f"| {share:g} | `{METHODS[method].__name__}` | {computed.mean():.2f} | {mean.mean():+.1f} "
                        f"| {sum(mean >= 3)} of {len(mean)} cases | {sum(mean >= 0)} | {sum(worst >= 0)} "
                        f"| {mean.min():+.1f} |"
                    )

    def gains(self, case: Case, method: str, share: float) -> tuple[float, float, float] | None:
        """The share computed, and the gain above fewer steps of the mean and of the worst clip."""
        gains = self._tables.gains(case, method, share)
        if gains is None:
            return None
        pairs = self._tables.clips(case, f"{method} @ {share:g}")
        return float(np.mean([run.computed for run, _ in pairs])) / case.steps, *gains

    def _cell(self, case: Case, share: float) -> str:
        plain = self._tables.of(case, fewer(round(share * case.steps)))
        if not plain:
            return ""
        said = [f"{np.mean([run.psnr for run in plain]):.1f}"]
        for method in ("optimal", "fitted"):
            gains = self.gains(case, method, share)
            said.append("" if gains is None else f"{gains[0]:.2f}: {gains[1]:+.1f} ({gains[2]:+.1f})")
        return "; ".join(said)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fitted sums on prompts that they were not fitted to.")
    add_judges(parser, JUDGES)
    parser.add_argument("--prompts", type=int, default=3, help="that are judged (3)")
    parser.add_argument("--measured", type=int, default=6, help="that are fitted to (6)")
    parser.add_argument("--table", action="store_true", help="only print what the runs so far say")
    parser.add_argument("--out", type=Path, default=Path("out/fitted"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{'-'.join(options.names)}.jsonl"
    for case in [] if options.table else in_order(options.names):
        measure(Bench(case, path), options.prompts, options.measured)
        print(f"{case}: done", flush=True)
    table = FittedTable(read(options.out))
    print("\n".join([*table.lines(), "", *table.summary()]))


def in_order(names: Sequence[str]) -> list[Case]:
    """All cases, those in which least holds first: high guidance, few steps."""
    found = {case: number for number, case in enumerate(cases(names))}
    highest = {case.judge: max(one.guidance for one in found if one.judge == case.judge) for case in found}
    return sorted(found, key=lambda case: (case.guidance < highest[case.judge], case.steps, found[case]))


if __name__ == "__main__":
    main()
