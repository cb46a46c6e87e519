"""What real runs and verifications have measured of candidates, and what to expect of them on further clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from accel.tuning.space import Candidate, Structure

PRIOR_CLIPS = 3  # clips that the scatter of all runs counts as, beside a structure's own
Quality = Mapping[str, Sequence[float]]  # by metric its values on several clips


class TrialResult(NamedTuple):
    """One real run, as the search needs it: metrics by name (PSNR always), time over the unaccelerated run's, and steps
    that were computed over those asked for.
    """

    values: dict[str, float]
    time: float
    computed: float


class TrialLog:
    """`runs` are those on the clips of the search, by candidate and clip; `verified` what verifications measured on the
    held-out clips."""

    def __init__(self, shots: int) -> None:
        self.shots = shots
        self.runs: dict[Candidate, dict[int, TrialResult]] = {}
        self.verified: dict[Candidate, Quality] = {}

    def add(self, candidate: Candidate, shot: int, found: TrialResult) -> None:
        self.runs.setdefault(candidate, {})[shot] = found

    def complete(self, candidate: Candidate) -> bool:
        """Whether it was run on all clips of the search."""
        return len(self.runs.get(candidate, ())) == self.shots

    def values(self, candidate: Candidate, metric: str) -> list[float]:
        return [found.values[metric] for found in self.runs.get(candidate, {}).values()]

    def computed(self, candidate: Candidate) -> float | None:
        """The share of the steps that it really computed; None before its first run."""
        runs = self.runs.get(candidate)
        return fmean(found.computed for found in runs.values()) if runs else None

    def open_shots(self, candidate: Candidate) -> list[int]:
        """The clips of the search that it was not run on."""
        return [shot for shot in range(self.shots) if shot not in self.runs.get(candidate, {})]

    def harder(self, metric: str) -> float:
        """By how much verifications have shown a metric to be less on the held-out clips than on those of the search. A
        few clips more or less say little, so nothing counts as one verification.
        """
        found = [
            fmean(self.values(candidate, metric)) - fmean(quality[metric])
            for candidate, quality in self.verified.items()
            if metric in quality and self.complete(candidate)
        ]
        return sum(found) / (len(found) + 1)

    def scatter(self, metric: str, structure: Structure, prior: float | None = None) -> float:
        """Standard deviation over prompts of what has this structure: from its runs, which are all on the same few
        clips, and its verifications, drawn towards `prior`. Some structures change single clips altogether and others
        change all a little.
        """
        runs = [self.values(c, metric) for c in self.runs if c.structure == structure]
        alike = [values for values in runs if len(values) > 1]
        judged = [q[metric] for c, q in self.verified.items() if c.structure == structure and metric in q]
        parts = [(len(values) - 1, stdev(values) ** 2) for values in judged if len(values) > 1]
        if alike:
            parts.append((max(map(len, alike)) - 1, fmean(stdev(values) ** 2 for values in alike)))
        if prior is not None:
            parts.append((PRIOR_CLIPS, prior**2))
        return math.sqrt(sum(count * square for count, square in parts) / max(sum(count for count, _ in parts), 1))
