"""What runs of `benchmarks.speeds` say: for each judge the fastest setting of each kind that keeps a promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple, TypeVar

import numpy as np

from benchmarks.judged_runs import PLAIN, Run, fewer

Key = TypeVar("Key")
KEPT = 0.95  # the share of clips that a promise is kept in
OURS = ("cache", "preset", "composed")
CALIBRATED = ", calibrated"
FITTED = "fitted"
IN_FEWER = " in fewer steps"
MOST = 3  # of each column so many of the fastest are timed once more


class Fastest(NamedTuple):
    """The fastest setting of some kinds that keeps a promise."""

    speed: float
    setting: str

    def __str__(self) -> str:
        return f"{self.speed:.2f}x ({self.setting})" if self.setting else "none"


class Speeds:
    """What the runs of one judge say. again: speeds that were measured once more, which count once all were that may be
    the fastest of a column.
    """

    def __init__(self, runs: Sequence[Run], again: Sequence[Run] = ()) -> None:
        self._by, self._again = (_grouped(some, attrgetter("setting")) for some in (runs, again))
        self.case = runs[0].case
        self._whole = fewer(self.case.steps)

    @property
    def theirs(self) -> list[str]:
        """The other libraries that ran."""
        own = {PLAIN, FITTED, *(f"{kind}{end}" for kind in OURS for end in ("", CALIBRATED))}
        kinds = dict.fromkeys(setting.partition(":")[0].removesuffix(IN_FEWER) for setting in self._by)
        return [kind for kind in kinds if kind not in own]

    @property
    def fitted(self) -> bool:
        """Whether schedules were fitted."""
        return any(setting.partition(":")[0] == FITTED for setting in self._by)

    def columns(self) -> dict[str, list[str]]:
        """The kinds of settings among which the fastest is shown, by title."""
        return {
            "cache alone": ["cache", "preset"],
            "composed": [*OURS],
            "composed, calibrated": [*OURS, *(f"{kind}{CALIBRATED}" for kind in OURS)],
            "fitted": [FITTED],
            "fewer steps": [PLAIN],
            "best other library": self.theirs,
            "the same in fewer steps": [f"{kind}{IN_FEWER}" for kind in self.theirs],
        }

    def finalists(self, promise: float) -> list[str]:
        """Settings that may be the fastest of a column."""
        return list(dict.fromkeys(name for kinds in self.columns().values() for name in self._leaders(kinds, promise)))

    def untimed(self, setting: str) -> list[int]:
        """The prompts on which its speed was not measured once more yet."""
        timed = {run.prompt for run in self._again.get(setting, [])}
        return [run.prompt for run in self._by[setting] if run.prompt not in timed]

    def fastest(self, kinds: Sequence[str], promise: float) -> Fastest:
        """Of these kinds, by settings that ran on every prompt."""
        kept = self._kept(kinds, promise)
        if not any(self.untimed(setting) for setting in self.finalists(promise)):
            timed = [one.setting for one in kept if not self.untimed(one.setting)]
            kept = [Fastest(speed(self._again[setting]), setting) for setting in timed]
        return max(kept, default=Fastest(1.0, ""))

    def _leaders(self, kinds: Sequence[str], promise: float) -> list[str]:
        """Those that were the fastest the first time: on a busy machine luck may have put one far ahead."""
        return [one.setting for one in sorted(self._kept(kinds, promise), reverse=True)[:MOST]]

    def _kept(self, kinds: Sequence[str], promise: float) -> list[Fastest]:
        """Those that keep the promise."""
        return [
            Fastest(speed(runs), setting)
            for setting, runs in self._by.items()
            if setting.partition(":")[0] in kinds and setting != self._whole
            if len(runs) == len(self._by[self._whole])
            if np.mean([run.psnr >= promise for run in runs]) >= KEPT
        ]


def speed(runs: Sequence[Run]) -> float:
    """Times as fast as the unaccelerated clips beside them."""
    return float(np.mean([run.beside for run in runs]) / np.mean([run.seconds for run in runs]))


def _grouped(runs: Sequence[Run], key: Callable[[Run], Key]) -> dict[Key, list[Run]]:
    by: dict[Key, list[Run]] = {}
    for run in runs:
        by.setdefault(key(run), []).append(run)
    return by


def table(judges: Sequence[Speeds], promise: float) -> Iterator[str]:
    """A line for each judge."""
    titles = [*judges[0].columns(), "composed, calibrated and fitted over other libraries"] if judges else []
    yield f"| at {promise:g} dB in {KEPT:.0%} of clips | {' | '.join(titles)} |"
    yield "| --- " * (1 + len(titles)) + "|"
    for judge in judges:
        found = [judge.fastest(kinds, promise) for kinds in judge.columns().values()]
        _, composed, calibrated, summed, _, rival, _ = found
        times = ", ".join(f"{one.speed / rival.speed:.2f}" for one in (composed, calibrated, summed) if one.setting)
        yield f"| {judge.case} | {' | '.join(map(str, found))} | {times} |"


def judged(runs: Sequence[Run], again: Sequence[Run] = ()) -> list[Speeds]:
    """By judge, those that another library ran on."""
    timed = _grouped(again, attrgetter("case"))
    judges = [Speeds(found, timed.get(case, ())) for case, found in _grouped(runs, attrgetter("case")).items()]
    return [judge for judge in judges if judge.theirs or judge.fitted]
