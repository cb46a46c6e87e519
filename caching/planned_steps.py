"""A plan made before the run, followed during it, and added to where the run turns out rougher than a plan bears."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from accel.caching.calibration.output_features import OutputFeatures
from accel.caching.planning import PlanRules, plan_steps
from accel.caching.policy import Decision, Policy
from accel.reasons import Code


class Measured(NamedTuple):
    """What was measured, for which of the denoisers, the guidance scale of the call, and why it says nothing, or ""."""

    features: OutputFeatures
    denoiser: str
    guidance: float | None
    misfit: str


# How far a plan of `OptimalSchedule` goes by what was measured, the rest of the way by even gaps: what a long gap does
# to the outputs after it is not measured. Against even plans, in the mean over twelve settings of the judges at 50, 34
# and 24 % of the steps (the same that it was chosen on): 1 gave -0.4, -3.0 and -1.3 dB, 0.3 gave +0.4, -0.6 and +0.8,
# and 0.15 gave +1.2, +0.1 and +0.7.
TRUST = 0.15


@lru_cache(maxsize=64)
def _planned(
    measured: Measured, levels: tuple[float, ...], share: float, flow: bool, rules: PlanRules
) -> tuple[bool, ...]:
    """Raises ValueError, in one clause, for noise levels outside of what was measured."""
    features = measured.features.at(measured.denoiser, levels[:-1], measured.guidance)
    return plan_steps(levels, share, flow=flow, features=features, rules=rules, trust=TRUST)


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
        measured: Measured | None = None,
        guard: float = 0.0,
        fewest: int = 1,
    ) -> None:
        self._fewest, self._short = fewest, False
        self._share, self._flow, self._rules, self._measured, self._guard = share, flow, rules, measured, guard
        self._computes: tuple[bool, ...] = ()
        self._first = self._added = 0
        self._source: str | None = None  # of the plan, where it was measured

    def begin(self, sigmas: Sequence[float], span: range, steps: int) -> None:
        rest = tuple(sigmas[span.start : span.stop + 1])
        # Solvers that evaluate a level twice (Heun) make half as many steps as evaluations.
        levels = len(set(rest[:-1])) / max(len(rest) - 1, 1)
        count = round(steps * levels)
        self._first, self._short, share = span.start, count <= self._fewest, self._share(count)
        flow = self._flow and max(rest) <= 1.0 + 1e-3  # some pipelines run a flow's scheduler over other levels
        if share < 1:
            self._computes = self._from_measured(rest, share, flow) or plan_steps(
                rest, share, flow=flow, rules=self._rules
            )
        self._source = self.note

    def _from_measured(self, rest: tuple[float, ...], share: float, flow: bool) -> tuple[bool, ...] | None:
        """The plan from what was measured; None where there is nothing or where it does not fit. `note` says which."""
        if self._measured is None:
            return None
        features, _, guidance, misfit = self._measured
        try:
            if misfit or flow != self._flow:
                raise ValueError(misfit or "this run's noise levels are not those of a flow")
            computes = _planned(self._measured, rest, share, flow, self._rules)
        except ValueError as reason:
            self.note = f"the calibration does not fit ({reason}), so the plan is the one for any model"
            if not misfit:  # of which `accelerate` has warned
                warnings.warn(f"{self.note[0].upper()}{self.note[1:]}.", stacklevel=2)
            return None
        self.note = f"planned from this model's own outputs, measured over {features.source}"
        scales = features.scales()
        if guidance is not None and scales and not scales[0] <= guidance <= scales[-1]:
            self.note += f" (this call has {guidance:g})"
        return computes

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
            added = f"{self._added} more than planned, because forecasts were wrong by more than {self._guard:g}"
            self.note = "; ".join(filter(None, (self._source, added)))

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
