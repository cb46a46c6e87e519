"""What a scheduler is, asked of a copy: what it takes its model to predict, what its updates are, how it can be told.

What cannot be asked is in `accel.known_schedulers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from accel.known_schedulers import exchangeable
from accel.noising import prediction_of, samples_of
from accel.parametrization import Prediction, Samples
from accel.scheduler_state import state_of
from accel.timestep_input import TimestepInput, timestep_input
from accel.timetable import Timetable, with_timetable
from accel.update import FRESH, Deep, LinearUpdates, Unknown

KEPT = 64  # answers kept for equal schedulers


@dataclass(frozen=True)
class SchedulerAnatomy:
    """One scheduler under its present settings.

    uncorrectable, irreplaceable: why forecasts cannot be corrected under its updates, and why no other update can stand
    in for its own: a clause, or "" where they can. random: whether its updates add noise. depth: outputs that an update
    uses, as far as that is known.
    """

    kind: str
    prediction: Prediction
    samples: Samples | None
    told: TimestepInput | None
    uncorrectable: str
    irreplaceable: str
    random: bool
    depth: int
    leveled: bool  # whether it says at which noise levels its steps are
    twice: bool  # whether it evaluates some of them twice (Heun)
    exchangeable: Mapping[str, tuple[str, ...]]


_asked: dict[object, SchedulerAnatomy] = {}  # by class and complete state: the answer is a function of these


def scheduler_anatomy(scheduler: Any) -> SchedulerAnatomy:
    """Asks a copy of a scheduler, on a timetable of its own choice: 5 to 50 ms, for equal ones once in a process.

    Two are equal if they are with that timetable: what the last run has left in them counts for nothing.
    The scheduler is not touched.
    """
    rehearsed = with_timetable(scheduler)
    state = state_of(rehearsed)
    if state is None:  # somebody's, that holds what cannot be compared
        return _ask(rehearsed)
    if state not in _asked:
        _asked[state] = _ask(rehearsed)
        if len(_asked) > KEPT:
            del _asked[next(iter(_asked))]
    return _asked[state]


def _ask(rehearsed: Any) -> SchedulerAnatomy:
    table = Timetable(rehearsed)
    samples = samples_of(table)
    prediction = prediction_of(table, samples)
    updates, unknown = _updates(table, prediction)
    if unknown is None and prediction != "unknown" and _fresh(table, prediction):
        unknown = Unknown(FRESH)
    return SchedulerAnatomy(
        kind=type(rehearsed).__name__,
        prediction=prediction,
        samples=samples,
        told=timestep_input(table),
        uncorrectable=str(unknown or ""),
        irreplaceable=_irreplaceable(table, samples, prediction, updates, unknown),
        random=updates is not None and updates.random,
        depth=0 if updates is None else updates.depth,
        leveled=table.told,
        twice=any(now == then for now, then in pairwise(table.sigmas)),
        exchangeable=exchangeable(rehearsed, prediction),
    )


def _updates(table: Timetable, prediction: Prediction) -> tuple[LinearUpdates | None, Unknown | None]:
    """The updates, in terms of the outputs or else of the clean estimates; or why there is no such map."""
    refused: Unknown | None = None
    for of in (None, prediction):
        try:
            if of != "unknown":
                return table.updates(of), None
        except Unknown as unknown:
            refused = refused or unknown.untraced()
    return None, refused


def _fresh(table: Timetable, prediction: Prediction) -> bool:
    try:
        return table.updates(prediction).fresh
    except Unknown:
        return False


def _irreplaceable(
    table: Timetable,
    samples: Samples | None,
    prediction: Prediction,
    updates: LinearUpdates | None,
    unknown: Unknown | None,
) -> str:
    if unknown is not None and not isinstance(unknown, Deep):
        return str(unknown)
    if updates is not None and updates.random:
        return "its updates are random"
    if samples is None or prediction == "unknown":
        return "it does not say how its samples are noised"
    if any(later >= sooner for sooner, later in pairwise(table.sigmas)):
        return "its noise levels do not fall from step to step"
    return ""
