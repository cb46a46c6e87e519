"""What signals would measure, looked up in what a calibration recorded: no model runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from accel.caching.calibration.table import RunTrace, StepTable

# distance(step, computed): what the signal would measure in this step, given the steps computed before.
Distance = Callable[[int, Sequence[int]], float | None]


def no_distance(step: int, computed: Sequence[int]) -> None:
    """For policies that look at nothing."""
    return None


def change_of(column: str, who: str, table: StepTable, trace: RunTrace) -> Distance:
    """The recorded change of a signal since the step before. who: the method, for the sentence.

    Raises ValueError where the column was not recorded.
    """
    if column not in trace.changes:
        raise ValueError(
            f"{who} cannot be simulated: there is no {column.replace('_', ' ')} in the records, because the "
            f"{table.denoiser} has no such module."
        )
    changes = trace.changes[column]
    return lambda step, computed: changes[step] if math.isfinite(changes[step]) else None


def drift_behind(blocks: int, who: str, table: StepTable, trace: RunTrace) -> Distance:
    """The recorded change of the first blocks' residual since the last computed step.

    Raises ValueError where it was not recorded behind so many blocks.
    """
    if blocks not in trace.drifts:
        known = ", ".join(map(str, trace.drifts)) or "none"
        raise ValueError(
            f"{who} cannot be simulated behind {blocks} blocks: recorded for the {table.denoiser} are {known}."
        )
    rows = trace.drifts[blocks]
    return lambda step, computed: at_lag(rows[step], step - computed[-1], growing=True) if computed else None


def at_lag(row: Sequence[float], lag: float, growing: bool) -> float:
    """A band's entry for a lag in steps, linear in between. Beyond the last lag a growing band goes on in proportion,
    the other stays; below the first lag a growing one falls to 0. Infinite where there is no entry at all.
    """
    if not row:
        return math.inf
    if lag <= 1:
        return row[0] * lag if growing else row[0]
    if lag >= len(row):
        return row[-1] * lag / len(row) if growing else row[-1]
    low, share = int(lag), lag - int(lag)
    return (1 - share) * row[low - 1] + share * row[low]
