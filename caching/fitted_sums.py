"""Weighted sums of computed outputs, fitted along a model's own runs, in place of forecasts and corrections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from accel.caching.extrapolate import combined
from accel.caching.policy import Decision, Policy
from accel.caching.predictor import PastValues, Predictor, at
from accel.call import DenoiserCall


class StepSum(NamedTuple):
    """What is handed on in one step: of the outputs computed at `nodes` (positions, newest first) so much each.

    ahead: where the step computes, so much of the nodes but the newest foretells its output; () where there are none.
    """

    nodes: tuple[int, ...]
    weights: tuple[float, ...]
    ahead: tuple[float, ...] = ()


@dataclass(frozen=True)
class FittedPlan:
    """Which positions compute, what error was seen when the outputs there were foretold, and how many times that is
    too much; 0 watches nothing.
    """

    computed: frozenset[int]
    errors: Mapping[int, float]
    rough: float


@dataclass(frozen=True)
class FittedSums(Predictor, abstract=True):
    """Hands on, in every step, the weighted sum of the last computed outputs that was fitted to this very step.

    sums: by the position of a step, because solvers like Heun's evaluate one time twice. plan: which steps compute, as
    the sums presume. Where a run has computed others, outputs are handed on as they are. Made by `FittedSchedule`.
    Memory: as many outputs per stream as a sum has.
    """

    sums: Mapping[int, StepSum] = field(default_factory=dict)
    plan: FittedPlan = field(default_factory=lambda: FittedPlan(frozenset(), {}, 0.0))

    @property
    def depth(self) -> int:
        return max((len(known.nodes) for known in self.sums.values()), default=1)

    def planned(self, policy: Policy) -> Policy:
        return FittedSteps(self.plan)

    def forecast(self, call: DenoiserCall, history: list[PastValues], kind: str) -> PastValues:
        known = self.sums.get(call.context.position)
        if known is None or not _are_last(known.nodes, history):
            return at(call, [value.clone() for value in history[-1].values], kind)
        return at(call, _summed(history, known.weights), kind)

    def foreseen(self, call: DenoiserCall, history: list[PastValues], now: PastValues, kind: str) -> list[torch.Tensor]:
        known = self.sums.get(now.position)
        fits = known is not None and known.ahead and _are_last(known.nodes, [*history, now])
        # Where other steps have computed nothing was foretold, and a plan that is not followed is not rough.
        return _summed(history, known.ahead) if known is not None and fits else now.values

    def handed_on(self, now: PastValues, history: list[PastValues]) -> list[torch.Tensor] | None:
        known = self.sums.get(now.position)
        fits = known is not None and _are_last(known.nodes, [*history, now])
        return _summed([*history, now], known.weights) if known is not None and fits else None


class FittedSteps(Policy):
    """Follows the plan, and computes the rest of a run that is rougher than those that the sums were fitted to.

    Sums are worth as much as the run is like those. Each computed output tells: it has been foretold from those before,
    as well as in other runs or worse. A run that goes another way does not come back, so nothing is skipped any more.
    """

    def __init__(self, plan: FittedPlan) -> None:
        self._plan, self._rough_from = plan, -1

    def watches(self, position: int) -> bool:
        return self._rough_from < 0 < self._plan.rough and position in self._plan.errors

    def after_forecast(self, position: int, gap: int, error: float) -> None:
        expected = self._plan.errors[position]
        if not error <= self._plan.rough * expected:  # nor where the error is not a number
            self._rough_from = position
            self.note = (
                f"computed in full from step {position + 1} on, because its output was foretold {error / expected:.1f} "
                f"times worse than in the runs that the sums were fitted to"
            )

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        if self._rough_from >= 0:
            return Decision(False, "rougher than what was fitted")
        return Decision(position not in self._plan.computed, "as fitted")


def _are_last(nodes: Sequence[int], known: Sequence[PastValues]) -> bool:
    """Whether these are the positions of the last computed outputs, newest first."""
    return len(nodes) <= len(known) and all(
        node == memory.position for node, memory in zip(nodes, reversed(known), strict=False)
    )


def _summed(known: Sequence[PastValues], weights: Sequence[float]) -> list[torch.Tensor]:
    """The last outputs, so much of each, newest first, in their dtype."""
    last = list(reversed(known))[: len(weights)]
    whole = combined(last, weights)
    return [value.to(like.dtype) for value, like in zip(whole, last[0].values, strict=True)]
