"""Which candidate to run next: a race in which every real run teaches the surrogate, until nothing better is likely."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import fmean
from typing import Any, Protocol

from accel.measure.metrics import MAX_PSNR
from accel.tuning.caution import Caution
from accel.tuning.goal import TuningGoal
from accel.tuning.simulate import Estimate
from accel.tuning.space import Candidate, Structure
from accel.tuning.surrogate import Belief, Observation, Surrogate
from accel.tuning.trial_log import Quality, TrialLog, TrialResult

FIRST = 6  # structures that start the race
BETTER = 1.03  # a gain in speed that is worth another run ...
BETTER_PSNR = 0.3  # ... and one in dB
# How many spreads of doubt a candidate gets on credit at first, and after how many real runs none any more: there are
# always more structures than it pays to try.
OPTIMISM, PATIENCE = 0.7, 60


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
        self.goal, self._surrogate, self._run = goal, surrogate, run
        self.outlooks, self._foreseen = dict(outlooks), outlooks  # without what was left out, and with it
        self._shots, self._tell = shots, tell
        self._standings = TrialLog(shots)
        self._caution = Caution(goal, self._standings, surrogate, held_out)
        self._refused: set[Candidate] = set()
        self._seen: list[tuple[Observation, Estimate]] = []

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
        while batch and shot < self._shots:
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
        self._tell(f"{candidate}, clip {shot + 1} of {self._shots}")
        found = self._run(candidate, shot)
        self._standings.add(candidate, shot, found)
        if candidate in self.outlooks:
            error = 10.0 ** (-min(self._likeness(candidate, found), MAX_PSNR) / 10.0)
            outlook = self.outlooks[candidate]
            evaluations = outlook.evaluations * found.computed / outlook.computed
            self._seen.append((Observation(candidate, shot, error, found.time, evaluations), outlook))
            self._surrogate.fit(self._seen)

    def _likeness(self, candidate: Candidate, found: TrialResult) -> float:
        """The decibels of a run. Those of another picture say nothing of how good it is: what is believed stays."""
        if self.goal.allows_another_picture and candidate.structure.resolution is not None:
            return self._surrogate.believe(candidate, self.outlooks[candidate]).decibels
        return found.values[self.goal.leading]

    def meets(self, candidate: Candidate) -> bool:
        """Whether the measured runs of a candidate are enough to promise the goal."""
        if candidate in self._refused:
            return False
        if self.goal.speedup is not None:
            return self._caution.is_fast_enough(self.believe(candidate))
        return self._caution.margin(candidate) >= 0.0

    def believe(self, candidate: Candidate) -> Belief:
        """The surrogate's belief, and what was measured in its place once all clips are measured. Not so for time,
        which is pooled over all runs of a method: evaluations can be counted, and times are noisy.
        """
        outlook, computed = self._foreseen[candidate], self._standings.computed(candidate)
        made = None if computed is None else outlook.evaluations * computed / outlook.computed
        belief = self._surrogate.believe(candidate, outlook, made)
        scatter = self._caution.scatter(self.goal.leading, candidate.structure)
        if not self._standings.complete(candidate):
            return replace(belief, scatter=scatter)
        return Belief(fmean(self._standings.values(candidate, self.goal.leading)), 0.0, scatter, belief.speedup)

    def gain(self, candidate: Candidate) -> float:
        """What the goal maximises: log speed-up, or decibels (on credit, while it is only believed)."""
        belief = self.believe(candidate)
        if self.goal.speedup is None:
            return math.log(belief.speedup)
        return belief.decibels + self._credit() * belief.doubt

    def learn(self, candidate: Candidate, quality: Quality, speedup: float, met: bool) -> None:
        """What a verification showed: every metric on the held-out clips, and the measured speed-up.

        It corrects what is expected of other candidates, towards caution or away from it, so that verifications
        together are a bisection. One that failed is out, with all that turn its dial further; several in a row make it
        careful in longer and longer steps, so that it soon has something to return.
        """
        self._standings.verified[candidate] = quality
        self._caution.learn(met, self.believe(candidate).speedup, speedup)
        if not met:
            self._refused |= {c for c in (*self.outlooks, candidate) if self._beyond(c, candidate)}

    def nearest(self) -> Candidate | None:
        """Of the candidates measured on all clips the one that misses the goal by least; of all, if there is none, that
        which is believed to come nearest.
        """
        measured, fast = self._measured(), self.goal.speedup is not None
        if measured and not fast:
            return max(measured, key=self._caution.margin)
        beliefs = {c: self.believe(c) for c in measured or self.outlooks}
        return max(beliefs, key=lambda c: beliefs[c].speedup if fast else beliefs[c].decibels, default=None)

    def tried(self) -> list[dict[str, Any]]:
        """Of every candidate that was run: on how many clips, how good it was there, and how fast it is."""
        return [
            {
                "candidate": str(c),
                "clips": len(runs),
                "speedup": self.believe(c).speedup,
                self.goal.leading: fmean(self._standings.values(c, self.goal.leading)),
                "evaluations": self.outlooks[c].evaluations,
            }
            for c, runs in self._standings.runs.items()
            if c in self.outlooks
        ]

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
        return OPTIMISM * max(1.0 - len(self._seen) / PATIENCE, 0.0)

    def _measured(self) -> list[Candidate]:
        """Those that were run on all clips."""
        return [c for c in self._standings.runs if c in self.outlooks and self._standings.complete(c)]

    def _settled(self, candidate: Candidate) -> bool:
        return candidate in self._refused or self._standings.complete(candidate)

    def _worth(self, candidate: Candidate) -> float:
        """For the halving: those that can still meet the goal first, by their gain."""
        return self.gain(candidate) - (0.0 if self._likely(candidate, self._credit()) else 1e3)

    def _likely(self, candidate: Candidate, optimism: float) -> bool:
        """Whether the candidate may well meet the goal."""
        return self._caution.is_likely(self.believe(candidate), optimism)

    def _hardest(self, candidate: Candidate) -> int:
        """The clip on which a candidate is most likely to fail, of those that it was not measured on."""
        open_ = self._standings.open_shots(candidate)
        return min(open_, key=lambda shot: self._surrogate.clips.get(shot, 0.0))

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
