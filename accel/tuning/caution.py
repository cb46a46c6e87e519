"""How careful the search is: how much better than the goal a candidate must be on few clips to keep it on others."""

from __future__ import annotations

from statistics import fmean

from accel.tuning.goal import Bound, TuningGoal, tolerance_factor
from accel.tuning.space import Candidate, Structure
from accel.tuning.surrogate import DECIBEL, Belief, Surrogate
from accel.tuning.trial_log import TrialLog

RESERVE = 0.5  # slacks of a bound that a failed verification asks for; each further one in a row twice as much
SPEED_RESERVE = 1.02  # speeds to be promised are aimed at with so much to spare


class Caution:
    """Whether a goal is likely to be met on `held_out` clips, by what was measured (`standings`) and what is believed
    (`surrogate`). Verifications that fail make it more careful.
    """

    def __init__(self, goal: TuningGoal, standings: TrialLog, surrogate: Surrogate, held_out: int) -> None:
        self._goal, self._standings, self._surrogate, self._held_out = goal, standings, surrogate, max(held_out, 2)
        self._failures = 0  # verifications in a row
        self._haste = SPEED_RESERVE  # over what is believed of speed, by what was measured

    def learn(self, met: bool, believed: float, speedup: float) -> None:
        """A verification has shown whether the goal is met, and the speed-up of what was believed to have another."""
        self._failures = 0 if met else self._failures + 1
        self._haste = SPEED_RESERVE * believed / speedup

    def is_fast_enough(self, belief: Belief) -> bool:
        return belief.speedup >= (self._goal.speedup or 0.0) * self._haste

    def is_likely(self, belief: Belief, optimism: float) -> bool:
        """Whether what is believed of a candidate is enough; so many spreads of doubt are in its favour."""
        if self._goal.speedup is not None:
            return self.is_fast_enough(belief)
        hardest = min(self._surrogate.clips.values(), default=0.0)
        below = max(self._factor * belief.scatter, -hardest) + self._reserve
        harder = self._standings.harder(self._goal.leading)
        return belief.decibels + optimism * belief.doubt - harder - below >= self._required()

    def margin(self, candidate: Candidate) -> float:
        """By how much the measured runs of a candidate keep the promise, in units of its slack; the least of all
        bounds."""
        margins = []
        for bound in self._goal.bounds:
            values = self._standings.values(candidate, bound.name)
            good = [bound.sign * (value - bound.limit) + bound.slack for value in values]
            expected = fmean(good) - bound.sign * self._standings.harder(bound.name)
            margin = min(min(good), expected - self._factor * self.scatter(bound.name, candidate.structure))
            margins.append(margin / (bound.slack or 1.0) - self._reserve)
        return min(margins)

    def scatter(self, metric: str, structure: Structure) -> float:
        """Of single clips; that of the leading metric, in dB, is drawn towards what all runs say."""
        prior = DECIBEL * self._surrogate.scatter if metric == self._goal.leading else None
        return self._standings.scatter(metric, structure, prior)

    @property
    def _factor(self) -> float:
        return tolerance_factor(self._held_out, self._goal.coverage)

    @property
    def _reserve(self) -> float:
        return RESERVE * 2.0 ** (self._failures - 1) if self._failures else 0.0

    def _required(self) -> float:
        """The decibels that the bounds stand for, less their slack: of the leading metric its own, for others those at
        which the runs so far have reached the limit."""
        return max((self._in_decibels(bound) for bound in self._goal.bounds), default=0.0)

    def _in_decibels(self, bound: Bound) -> float:
        leading, least = self._goal.leading, bound.sign * bound.limit - bound.slack
        if bound.name == leading:
            return bound.limit - bound.slack
        points = [
            (found.values[leading], bound.sign * found.values[bound.name])
            for candidate, runs in self._standings.runs.items()
            for found in runs.values()
            if candidate.structure.resolution is None
        ]
        good = sorted(decibels for decibels, value in points if value >= least)
        bad = sorted(decibels for decibels, value in points if value < least)
        if not good or not bad:
            return bad[-1] + 3.0 if bad else good[0] - 3.0 if good else 32.0
        return (fmean(good[:3]) + fmean(bad[-3:])) / 2
