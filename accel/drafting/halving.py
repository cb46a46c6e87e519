"""The search for the best of many seeds, within a budget: successive halving, or a search around the best.

What a round of halving leaves of the budget, the next one spends on keeping more than half.

Successive halving: Karnin et al. 2013. Rollover of the budget: rollover budget forcing (Kim et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from accel.drafting.call_memory import CallMemory
from accel.drafting.early_end import EarlyEnd, steps_of
from accel.drafting.initial_noise import InitialNoise
from accel.drafting.neighbours import Moves
from accel.drafting.seeded_runs import RunSeed, SeededRun


@dataclass
class Contender:
    """A seed that is still in, with its scores so far."""

    seed: int
    memory: CallMemory = field(default_factory=CallMemory)
    scores: list[float] = field(default_factory=list)
    output: Any = None
    moves: Moves = field(default_factory=Moves)

    @property
    def name(self) -> int:
        """Its seed; of a neighbour the number that it was drawn by."""
        return self.moves.numbers[-1] if self.moves.numbers else self.seed

    @property
    def rank(self) -> tuple[float, float]:
        """The last score; of equal ones, the better on the way."""
        return self.scores[-1], sum(self.scores)


class Search:
    """Looks at seeds and drops them, or moves on from the best, within a budget."""

    def __init__(self, run: RunSeed, score: Callable[[Any], float], stages: Sequence[float], budget: float) -> None:
        self._run, self._score, self._stages, self._budget = run, score, stages, budget
        self._prices: list[float] = []  # of each stage for one seed, in unaccelerated runs
        self._unaccelerated = 1
        self._spent = 0
        self.seconds = self.cpu_seconds = 0.0
        self.rounds: list[dict[int, float]] = []

    @property
    def cost(self) -> float:
        """What was spent, in unaccelerated runs."""
        return self._spent / self._unaccelerated

    def counted(self, run: SeededRun) -> SeededRun:
        self._spent += run.spent
        self.seconds, self.cpu_seconds = self.seconds + run.seconds, self.cpu_seconds + run.cpu_seconds
        return run

    def winner(self, seeds: Sequence[int]) -> Contender:
        """Successive halving: the best when all stages are over."""
        left = [Contender(seed) for seed in seeds]
        self._look(left[0], 0)  # tells what everything costs
        del left[max(1, affordable(len(left), self._prices, self._budget)) :]
        for stage in range(len(self._stages)):
            if stage:
                del left[self._survivors(len(left), stage) :]
            for one in left:
                if len(one.scores) <= stage:
                    self._look(one, stage)
            self._close_round(left)
            left.sort(key=lambda one: one.rank, reverse=True)
        return left[0]

    def wanderer(self, seeds: Sequence[int], closeness: float) -> Contender:
        """Neighbourhood search: of the looks that the budget pays for, half are at seeds, half around the best."""
        tried = [Contender(seeds[0])]
        self._look(tried[0], 0)
        looks = max(1, int((self._budget - sum(self._prices[1:])) / self._prices[0] + 1e-9))
        tried += map(Contender, seeds[1 : max(1, looks // 2)])
        for one in tried[1:]:
            self._look(one, 0)
        self._close_round(tried)
        pivot, around = max(tried, key=lambda one: one.rank), list[Contender]()
        for number in range(looks - len(tried)):
            around.append(Contender(pivot.seed, moves=replace(pivot.moves, closeness=closeness).on(number)))
            self._look(around[-1], 0)
            pivot = max(pivot, around[-1], key=lambda one: one.rank)
        if around:
            self._close_round(around)
        if self._stages[-1] == 1.0 and len(self._stages) > 1:
            self._look(pivot, len(self._stages) - 1)
            self._close_round([pivot])
        return pivot

    def _close_round(self, looked_at: Sequence[Contender]) -> None:
        self.rounds.append({one.name: one.scores[-1] for one in looked_at})

    def _survivors(self, count: int, stage: int) -> int:
        """As many as what is left of the budget pays for: half of them as planned, more where it was not used up."""
        return max(1, affordable(count, self._prices[stage:], self._budget - self.cost))

    def _look(self, one: Contender, stage: int) -> None:
        end = EarlyEnd(self._stages[stage], foresee=not self._prices)
        one.output = self.counted(self._run(one.seed, one.memory, end, InitialNoise(one.moves))).output
        if not self._prices:
            self._unaccelerated = end.unaccelerated
            self._prices = prices(end.per_step, self._stages)
        one.scores.append(self._score(one.output))


def prices(per_step: Sequence[int], stages: Sequence[float]) -> list[float]:
    """What each stage costs one seed, in unaccelerated runs, by the samples that are evaluated in each step."""
    steps, whole = len(per_step), max(max(per_step) * len(per_step), 1)
    ends = [_end_from(per_step, steps_of(share, steps)) for share in stages]
    return [sum(per_step[start:end]) / whole for start, end in pairwise([0, *ends])]


def _end_from(per_step: Sequence[int], reached: int) -> int:
    """Where `EarlyEnd` ends a run that has reached so many steps: behind one that follows a computed one."""
    ends = range(reached, len(per_step))
    return next((end for end in ends if end == 1 or per_step[end - 2]), len(per_step))


def affordable(most: int, costs: Sequence[float], budget: float) -> int:
    """The most seeds that can begin these stages where half of them drop out after each; 0 where not even one can."""
    return next((count for count in range(most, 0, -1) if _total(count, costs) <= budget + 1e-9), 0)


def _total(count: int, costs: Sequence[float]) -> float:
    return sum(math.ceil(count / (1 << stage)) * cost for stage, cost in enumerate(costs))
