"""A plan made before the run, followed during it, and added to where the run turns out rougher than a plan bears."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from accel.caching.planning import PlanRules, plan_steps
from accel.caching.policy import Decision, Policy
from accel.reasons import Code


def cut(begin: int, end: int, most: int) -> list[int]:
    """The steps between two computed ones that must compute so that no gap is longer than `most`, evenly."""
    pieces = math.ceil((end - begin) / max(most, 1))
    return [begin + round(piece * (end - begin) / pieces) for piece in range(1, pieces)]


class PlannedSteps(Policy):
    """Follows the plan for this run's noise levels. guard, fewest: see `OptimalSchedule`."""

    def __init__(
        self,
        share: Callable[[int], float],
        flow: bool,
        rules: PlanRules,
        guard: float = 0.0,
        fewest: int = 1,
    ) -> None:
        self._fewest, self._short = fewest, False
        self._share, self._flow, self._rules, self._guard = share, flow, rules, guard
        self._computes: tuple[bool, ...] = ()
        self._first = self._added = 0

    def begin(self, sigmas: Sequence[float], span: range, steps: int) -> None:
        rest = tuple(sigmas[span.start : span.stop + 1])
        # Solvers that evaluate a level twice (Heun) make half as many steps as evaluations.
        levels = len(set(rest[:-1])) / max(len(rest) - 1, 1)
        count = round(steps * levels)
        self._first, self._short, share = span.start, count <= self._fewest, self._share(count)
        flow = self._flow and max(rest) <= 1.0 + 1e-3  # some pipelines run a flow's scheduler over other levels
        if share < 1:
            self._computes = plan_steps(rest, share, flow=flow, rules=self._rules)

    def watches(self, position: int) -> bool:
        return self._guard > 0 and self._next(position) > position + 1

    def after_forecast(self, position: int, gap: int, error: float) -> None:
        end = self._next(position)
        # Errors grow at least in proportion to the gap.
        bearable = math.inf if error == 0 else gap * self._guard / error
        if not bearable >= end - position:  # nor where the error is not a number
            more = {step - self._first for step in cut(position, end, int(bearable) if bearable > 0 else 1)}
            self._computes = tuple(known or step in more for step, known in enumerate(self._computes))
            self._added += len(more)
            self.note = f"{self._added} more than planned, because forecasts were wrong by more than {self._guard:g}"

    def _next(self, position: int) -> int:
        """The next position that is planned to compute."""
        later = range(position + 1, self._first + len(self._computes))
        return next((step for step in later if self._computes[step - self._first]), position + 1)

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        index = position - self._first
        if self._short:
            few = f"{total} steps are no more than the {self._fewest} that are computed at least"
            return Decision(False, few, Code.SHORT_RUN)
        if not 0 <= index < len(self._computes):
            return Decision(False, "beyond the plan" if self._computes else "everything computes")
        return Decision(False, "planned") if self._computes[index] else Decision(True, "planned")
