"""What was fitted, tried on the prompts that it was fitted to: whether it is used, and what is usual there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from statistics import median
from typing import Any

from accel.anatomy import Anatomy
from accel.caching.fitted_sums import FittedPlan, FittedSteps, FittedSums
from accel.caching.methods.fitted_schedule import FittedSchedule
from accel.caching.policy import Policy
from accel.caching.predictor import Predictor
from accel.caching.run_fit import RunFit
from accel.call import DenoiserCall
from accel.report import Report

Errors = dict[int, float]
"""How wrong computed outputs were foretold in a run, relative to their size, by position."""


def typical(runs: Sequence[Errors]) -> Errors:
    """The median of some runs, position by position."""
    return {place: median(run[place] for run in runs if place in run) for place in dict.fromkeys(chain(*runs))}


def calm_runs(errors: Mapping[int, Errors], rough: float) -> list[int]:
    """Those in which no output was foretold so many times worse than in most; all of them where that leaves too few."""
    usual = typical(list(errors.values()))
    calm = [
        number
        for number, run in errors.items()
        if not rough or all(error <= rough * usual[place] for place, error in run.items())
    ]
    return calm if 2 * len(calm) >= len(errors) else list(errors)


def with_errors(fit: RunFit, errors: Errors) -> RunFit:
    """With the errors of positions that compute, of all denoisers."""
    also = None if fit.also is None else with_errors(fit.also, errors)
    return replace(fit, errors=tuple(errors.get(place, 0.0) for place in fit.computed), also=also)


def check_use(report: Report, method: Rehearsal) -> None:
    """Raises ValueError where a run has not used what was measured."""
    known = [] if method.fit is None else [one.computed for one in method.fit.chain()]
    more = [call for call in report.calls if call.action == "computed" and call.position not in chain(*known)]
    why = next(iter(method.unused), "") or next((call.reason for call in more), "")
    if why:
        raise ValueError(f"This pipeline's calls do not use what was measured ({why}), so leave FittedSchedule out.")


@dataclass(frozen=True)
class Rehearsal(FittedSchedule, abstract=True):
    """The same schedule, which tells how wrong its computed outputs were foretold, by position, and why some stream
    does not use what was measured.
    """

    seen: Errors = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, method: FittedSchedule, seen: Errors) -> Rehearsal:
        given: dict[str, Any] = {each.name: getattr(method, each.name) for each in fields(method)}
        return cls(**given, seen=seen)

    def informed(
        self, predictor: Predictor, call: DenoiserCall, span: range, anatomy: Anatomy
    ) -> tuple[Predictor, str]:
        try:
            known = self.sums(call, span, anatomy)
        except ValueError as reason:
            self.unused.append(str(reason))
            return predictor, ""
        return _Rehearsed(known.sums, known.plan, self.seen), ""


@dataclass(frozen=True)
class _Rehearsed(FittedSums, abstract=True):
    seen: Errors = field(default_factory=dict)

    def planned(self, policy: Policy) -> Policy:
        return _Watched(self.plan, self.seen)


class _Watched(FittedSteps):
    def __init__(self, plan: FittedPlan, seen: Errors) -> None:
        super().__init__(plan)
        self._seen = seen

    def watches(self, position: int) -> bool:
        return True

    def after_forecast(self, position: int, gap: int, error: float) -> None:
        self._seen[position] = max(error, self._seen.get(position, 0.0))
