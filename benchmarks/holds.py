"""What holds on models that were left out of the choice: `python -m benchmarks.holds` (`make holds`).

Every candidate setting runs on every judge, scheduler, guidance scale and length, each prompt with a seed of its own,
beside the unaccelerated pipeline and, clip by clip, beside fewer steps with as many calls as were computed. For each
judge the setting is then chosen by all *other* judges, and the table shows how that one does on it. Speeds, and other
libraries, are the business of `benchmarks.speeds`.

Runs are kept in files of OUT as they end; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel.caching.extrapolate import Extrapolate
from accel.caching.methods.schedules import OptimalSchedule
from accel.recipe import Recipe
from benchmarks.command import add_judges
from benchmarks.judged_runs import Bench, Case, Run, cases, fewer, read
from benchmarks.judges import JUDGES

SHARES = (0.66, 0.5, 0.42, 0.34, 0.28, 0.22)
# What a gain above fewer steps counts at most: beyond, a setting is not better for having more of it on an easy judge.
ENOUGH = 6.0
SLACK = 0.5  # dB by which more compute may be worse
CANDIDATES: dict[str, dict[str, Any]] = {
    f"dense {dense}, reach {reach:g}": {"predictor": Extrapolate(reach=reach), "dense": dense}
    for dense, reach in ((14, 0.16), (14, 0.12), (10, 0.16), (20, 0.16))
}
"""Settings of `OptimalSchedule` that may become the default. Its guard is the presets' (`benchmarks.presets`)."""


class Tables:
    """What the runs say."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs: dict[tuple[Case, str], list[Run]] = {}
        for run in runs:
            self._runs.setdefault((run.case, run.setting), []).append(run)
        self.cases = list(dict.fromkeys(run.case for run in runs))

    def of(self, case: Case, setting: str) -> list[Run]:
        """All clips of a setting."""
        return self._runs.get((case, setting), [])

    def clips(self, case: Case, setting: str) -> list[tuple[Run, Run]]:
        """Each with the one that took as many plain steps."""
        found = []
        for run in self._runs.get((case, setting), []):
            beside = self._runs.get((case, fewer(run.computed)), [])
            found += [(run, plain) for plain in beside if plain.prompt == run.prompt]
        return found

    def gains(self, case: Case, candidate: str, share: float) -> tuple[float, float] | None:
        """Above fewer steps: of the mean, and of the worst clip."""
        pairs = self.clips(case, f"{candidate} @ {share:g}")
        if not pairs:
            return None
        ours, plain = ([pair[side].psnr for pair in pairs] for side in (0, 1))
        return float(np.mean(ours) - np.mean(plain)), min(ours) - min(plain)

    def chosen_without(self, judge: str) -> str:
        """The candidate that is best above fewer steps on all other judges, mean and worst clip alike."""

        def merit(candidate: str) -> float:
            found = [
                gain
                for case in self.cases
                if case.judge != judge
                for share in SHARES
                for gain in self.gains(case, candidate, share) or ()
            ]
            return float(np.mean(np.minimum(found, ENOUGH))) if found else -np.inf

        return max(CANDIDATES, key=merit)

    def left_out(self) -> Iterator[str]:
        """A line for each case: fewer steps and what the setting chosen without this judge is above that."""
        yield f"| judge, scheduler, guidance, steps | chosen by the others | {' | '.join(map(str, SHARES))} |"
        yield "| --- " * (2 + len(SHARES)) + "|"
        for case in self.cases:
            candidate, cells = self.chosen_without(case.judge), []
            for share in SHARES:
                gain, pairs = self.gains(case, candidate, share), self.clips(case, f"{candidate} @ {share:g}")
                cells.append("")
                if gain:
                    computed = np.mean([run.computed for run, _ in pairs]) / case.steps
                    plain = np.mean([run.psnr for _, run in pairs])
                    cells[-1] = f"{computed:.2f}: {plain:.1f} {gain[0]:+.1f} ({gain[1]:+.1f})"
            yield f"| {case} | {candidate} | {' | '.join(cells)} |"

    def monotonic(self) -> str:
        """How often more compute is worse, in the mean of a case's clips, than the share below it."""
        pairs = worse = 0
        for case in self.cases:
            candidate = self.chosen_without(case.judge)
            means = [self._runs.get((case, f"{candidate} @ {share:g}"), []) for share in SHARES]
            levels = [float(np.mean([run.psnr for run in runs])) for runs in means if runs]
            pairs += max(len(levels) - 1, 0)
            worse += sum(more < less - SLACK for more, less in pairwise(levels))
        return f"More compute is worse by more than {SLACK:g} dB in {worse} of {pairs} pairs of neighbouring shares."


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Settings on judges that had no part in choosing them.")
    add_judges(parser, JUDGES)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only print what the runs so far say")
    parser.add_argument("--out", type=Path, default=Path("out/holds"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    # A file for each set of judges, so that two commands with different ones may run at once.
    path = options.out / f"{'-'.join(options.names)}.jsonl"
    for case in [] if options.table else cases(options.names):
        bench = Bench(case, path)
        bench.plain(options.prompts, SHARES)
        for candidate, settings in CANDIDATES.items():
            for share in SHARES:
                recipe = Recipe(cache=OptimalSchedule(share, **settings))
                bench.ours(f"{candidate} @ {share:g}", recipe, range(options.prompts))
        print(f"{case}: done", flush=True)
    tables = Tables(read(options.out))
    print("\n".join(tables.left_out()))
    print(f"\n{tables.monotonic()}")


if __name__ == "__main__":
    main()
