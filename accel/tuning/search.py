"""Which candidate to run next: a race in which every real run teaches the surrogate, until nothing better is likely."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import fmean
from typing import Protocol

from accel.measure.metrics import MAX_PSNR
from accel.tuning.goal import TuningGoal, tolerance_factor
from accel.tuning.simulate import Estimate
from accel.tuning.space import Candidate, Structure
from accel.tuning.surrogate import DECIBEL, Belief, Observation, Surrogate
from accel.tuning.trial_log import Quality, TrialLog, TrialResult

FIRST = 6  # structures that start the race
BETTER = 1.03  # a gain in speed that is worth another run ...
BETTER_PSNR = 0.3  # ... and one in dB
# How many spreads of doubt a candidate gets on credit at first, and after how many real runs none any more: there are
# always more structures than it pays to try.
OPTIMISM, PATIENCE = 0.7, 60
RESERVE = 0.5  # slacks of a bound that a failed verification asks for; each further one in a row twice as much
SPEED_RESERVE = 1.02  # speeds to be promised are aimed at with so much to spare


class CandidateRunner(Protocol):
    """Makes real runs. Raises Exhausted where no time is left for one."""

    def __call__(self, candidate: Candidate, shot: int) -> TrialResult: ...


class Exhausted(Exception):
    """The time or the number of runs that the search may take is used up."""


class CandidateSearch:
    """The race. `outlooks` are all candidates with what was simulated of them; `held_out` is the number of clips that
    the winner will be judged on, which decides how much better than the goal the mean must be.
    """

    def __init__(
        self,
        goal: TuningGoal,
        outlooks: dict[Candidate, Estimate],
        surrogate: Surrogate,
        run: CandidateRunner,
        shots: int,
        held_out: int,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.goal, self.outlooks, self.surrogate, self._run = goal, dict(outlooks), surrogate, run
        self.shots, self.held_out, self._tell = shots, held_out, tell
        self.standings = TrialLog(shots)
        self.refused: set[Candidate] = set()
        self.failures = 0  # verifications in a row
        self.haste = SPEED_RESERVE
        self.seen: list[tuple[Observation, Estimate]] = []

    @property
    def least(self) -> float:
        """How much a better candidate must gain, by `gain`, to be worth its runs."""
        return BETTER_PSNR if self.goal.speedup is not None else math.log(BETTER)

    def drop(self, unwanted: Callable[[Structure], bool]) -> None:
        """Leaves out the candidates of such structures from now on."""
        self.outlooks = {c: outlook for c, outlook in self.outlooks.items() if not unwanted(c.structure)}

    def start(self) -> None:
        """Successive halving of the most promising structures: all on one clip, the better half on the next ones."""
        batch, shot = self._diverse(FIRST), 0
        while batch and shot < self.shots:
            for candidate in batch:
                self.measure(candidate, shot)
            left = [c for c in batch if c in self.outlooks]  # a run may show that a lever does nothing here
            batch = sorted(left, key=self._worth, reverse=True)[: max(len(left) // 2, 1)]
            shot += 1

    def best(self, first: bool = False) -> Candidate | None:
        """Races on until the believed best candidate is measured on all clips, meets the goal there, and no other is
        likely to be better; `first`: until any meets it. None where no candidate is left that could meet the goal.

        Turning a structure's dial towards the limit is a bisection: each run on either side of it moves the belief
        about where it is.
        """
        while True:
            leader = self.leader()
            challenger = self._challenger(leader)
            if challenger is None or (first and leader is not None):
                return leader
            self.measure(challenger, self._hardest(challenger))

    def leader(self) -> Candidate | None:
        """The best of those that are measured on all clips and meet the goal there."""
        return max((c for c in self._measured() if self.meets(c)), key=self.gain, default=None)

    def measure(self, candidate: Candidate, shot: int) -> None:
        """Makes one real run and learns from it."""
        self._tell(f"{candidate}, clip {shot + 1} of {self.shots}")
        found = self._run(candidate, shot)
        self.standings.add(candidate, shot, found)
        if candidate in self.outlooks:
            error = 10.0 ** (-min(self._likeness(candidate, found), MAX_PSNR) / 10.0)
            outlook = self.outlooks[candidate]
            evaluations = outlook.evaluations * found.computed / outlook.computed
            self.seen.append((Observation(candidate, shot, error, found.time, evaluations), outlook))
            self.surrogate.fit(self.seen)

    def _likeness(self, candidate: Candidate, found: TrialResult) -> float:
        """The decibels of a run. Those of another picture say nothing of how good it is: what is believed stays."""
        if self.goal.allows_another_picture and candidate.structure.resolution is not None:
            return self.surrogate.believe(candidate, self.outlooks[candidate]).decibels
        return found.values[self.goal.leading]

    def meets(self, candidate: Candidate) -> bool:
        """Whether the measured runs of a candidate are enough to promise the goal."""
        if candidate in self.refused:
            return False
        if self.goal.speedup is not None:
            return self.believe(candidate).speedup >= self.goal.speedup * self.haste
        return self._measured_margin(candidate) >= 0.0

    def believe(self, candidate: Candidate) -> Belief:
        """The surrogate's belief, and what was measured in its place once all clips are measured. Not so for time,
        which is pooled over all runs of a method: evaluations can be counted, and times are noisy.
        """
        outlook, computed = self.outlooks[candidate], self.standings.computed(candidate)
        made = None if computed is None else outlook.evaluations * computed / outlook.computed
        belief = self.surrogate.believe(candidate, outlook, made)
        scatter = self._scatter(self.goal.leading, candidate.structure)
        if not self.standings.complete(candidate):
            return replace(belief, scatter=scatter)
        return Belief(fmean(self.standings.values(candidate, self.goal.leading)), 0.0, scatter, belief.speedup)

    def nearest(self) -> Candidate | None:
        """Of the candidates measured on all clips the one that misses the goal by least."""
        measured = self._measured()
        if self.goal.speedup is not None:
            return max(measured, key=lambda c: self.believe(c).speedup, default=None)
        return max(measured, key=self._measured_margin, default=None)

    def learn(self, candidate: Candidate, quality: Quality, speedup: float, met: bool) -> None:
        """What a verification showed: every metric on the held-out clips, and the measured speed-up.

        It corrects what is expected of other candidates, towards caution or away from it, so that verifications
        together are a bisection. One that failed is out, with all that turn its dial further; several in a row make it
        careful in longer and longer steps, so that it soon has something to return.
        """
        self.standings.verified[candidate] = quality
        self.failures = 0 if met else self.failures + 1
        if not met:
            self.refused |= {c for c in (*self.outlooks, candidate) if self._beyond(c, candidate)}
        if self.goal.speedup is not None:
            self.haste = SPEED_RESERVE * self.believe(candidate).speedup / speedup

    def _reserve(self) -> float:
        return RESERVE * 2.0 ** (self.failures - 1) if self.failures else 0.0

    def _beyond(self, candidate: Candidate, failed: Candidate) -> bool:
        """Whether what failed means that this candidate would, too."""
        if candidate.structure != failed.structure:
            return False
        further = failed.compute - candidate.compute
        return further >= 0.0 if self.goal.speedup is None else further <= 0.0

    def _challenger(self, leader: Candidate | None) -> Candidate | None:
        """The candidate whose next run is worth most; None where no one is likely to beat the leader."""
        beaten = -math.inf if leader is None else self.gain(leader)
        open_ = [c for c in self.outlooks if c != leader and not self._settled(c) and self._likely(c, self._credit())]
        best = max(open_, key=self.gain, default=None)
        return best if best is not None and self.gain(best) > beaten + self.least else None

    def _credit(self) -> float:
        return OPTIMISM * max(1.0 - len(self.seen) / PATIENCE, 0.0)

    def _measured(self) -> list[Candidate]:
        """Those that were run on all clips."""
        return [c for c in self.standings.runs if c in self.outlooks and self.standings.complete(c)]

    def _settled(self, candidate: Candidate) -> bool:
        return candidate in self.refused or self.standings.complete(candidate)

    def gain(self, candidate: Candidate) -> float:
        """What the goal maximises: log speed-up, or decibels (on credit, while it is only believed)."""
        belief = self.believe(candidate)
        if self.goal.speedup is None:
            return math.log(belief.speedup)
        return belief.decibels + self._credit() * belief.doubt

    def _worth(self, candidate: Candidate) -> float:
        """For the halving: those that can still meet the goal first, by their gain."""
        return self.gain(candidate) - (0.0 if self._likely(candidate, self._credit()) else 1e3)

    def _likely(self, candidate: Candidate, optimism: float) -> bool:
        """Whether the candidate may well meet the goal."""
        belief = self.believe(candidate)
        if self.goal.speedup is not None:
            return belief.speedup >= self.goal.speedup * self.haste
        factor = tolerance_factor(max(self.held_out, 2), self.goal.coverage)
        below = max(factor * belief.scatter, -min(self.surrogate.clips.values(), default=0.0)) + self._reserve()
        return (
            belief.decibels + optimism * belief.doubt - self.standings.harder(self.goal.leading) - below
            >= self._required()
        )

    def _hardest(self, candidate: Candidate) -> int:
        """The clip on which a candidate is most likely to fail, of those that it was not measured on."""
        open_ = self.standings.open_shots(candidate)
        return min(open_, key=lambda shot: self.surrogate.clips.get(shot, 0.0))

    def _measured_margin(self, candidate: Candidate) -> float:
        """By how much the promise is likely to be kept on the held-out clips, in units of its slack; the least of all
        bounds."""
        margins = []
        factor = tolerance_factor(max(self.held_out, 2), self.goal.coverage)
        for bound in self.goal.bounds:
            values = self.standings.values(candidate, bound.name)
            good = [bound.sign * (value - bound.limit) + bound.slack for value in values]
            expected = fmean(good) - bound.sign * self.standings.harder(bound.name)
            margin = min(min(good), expected - factor * self._scatter(bound.name, candidate.structure))
            margins.append(margin / (bound.slack or 1.0) - self._reserve())
        return min(margins)

    def _scatter(self, metric: str, structure: Structure) -> float:
        """That of the leading metric, in dB, is drawn towards what all runs say."""
        prior = DECIBEL * self.surrogate.scatter if metric == self.goal.leading else None
        return self.standings.scatter(metric, structure, prior)

    def _required(self) -> float:
        """The decibels that the bounds stand for, less their slack: of the leading metric its own, for others those at
        which the runs so far have reached the limit."""
        return max((self._in_decibels(bound.name, bound.limit, bound.slack) for bound in self.goal.bounds), default=0.0)

    def _in_decibels(self, name: str, limit: float, slack: float) -> float:
        if name == self.goal.leading:
            return limit - slack
        sign = next(bound.sign for bound in self.goal.bounds if bound.name == name)
        points = sorted(
            (found.values[self.goal.leading], sign * found.values[name])
            for candidate, runs in self.standings.runs.items()
            for found in runs.values()
            if candidate.structure.resolution is None
        )
        good = [decibels for decibels, value in points if value >= sign * limit - slack]
        bad = [decibels for decibels, value in points if value < sign * limit - slack]
        if not good or not bad:
            return (max(bad) + 3.0) if bad else (min(good) - 3.0 if good else 32.0)
        return (fmean(sorted(good)[:3]) + fmean(sorted(bad)[-3:])) / 2

    def _diverse(self, count: int) -> list[Candidate]:
        """The most promising candidates, one of each structure, and no cache or other method in more than half."""
        chosen: list[Candidate] = []
        used: dict[str, int] = {}
        for candidate in sorted(self._fronts(), key=self.gain, reverse=True):
            names = candidate.structure.names()
            if any(used.get(name, 0) >= max(count // 2, 1) for name in names):
                continue
            chosen.append(candidate)
            used.update({name: used.get(name, 0) + 1 for name in names})
            if len(chosen) == count:
                break
        return chosen

    def _fronts(self) -> Iterable[Candidate]:
        """Of each structure the best candidate that is likely to meet the goal by simulation alone."""
        best: dict[Structure, Candidate] = {}
        for candidate in self.outlooks:
            if self._likely(candidate, 0.0):
                known = best.get(candidate.structure)
                if known is None or self.gain(candidate) > self.gain(known):
                    best[candidate.structure] = candidate
        return best.values()
