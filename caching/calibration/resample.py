"""The recorded numbers as they would be at other noise levels: another step count, or image-to-image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from accel.caching.calibration.recorded_signals import at_lag
from accel.caching.calibration.table import LAGS, Array, Rows, RunTrace, StepTable, falling, round_row
from accel.parametrization import flow_time


def resample(tables: Sequence[StepTable], timetable: Sequence[float], kind: str) -> tuple[StepTable, ...]:
    """The tables at the noise levels of `timetable`, those of all steps and of the end; `kind` is the prediction type.

    Each step goes to the denoiser in whose recorded range it lies (two experts: the border is half-way between the last
    noise level of one and the first of the other), and nothing is interpolated from one to the other. Outside of all
    ranges the nearest recorded step counts. Changes of consecutive steps add up, ratios multiply, distances over
    several steps are linear in between, and inner products are those of outputs that are cubic in noise level; error
    curves stay as they are, because SmoothCache reads them by noise level anyway.
    Raises ValueError for noise levels that do not fall.
    """
    levels = tuple(float(sigma) for sigma in timetable)
    if len(levels) < 3 or not falling(levels) or not all(map(math.isfinite, levels)):
        raise ValueError("Resampling wants at least two falling noise levels and, last, that of the end.")
    ordered = sorted(tables, key=lambda table: table.start)
    borders = [(one.sigmas[-1] + other.sigmas[0]) / 2 for one, other in pairwise(ordered)]
    owner = [sum(sigma < border for border in borders) for sigma in levels[:-1]]
    return tuple(
        _table(table, levels, owner.index(index), owner.count(index), kind)
        for index, table in enumerate(ordered)
        if index in owner
    )


def _table(table: StepTable, timetable: tuple[float, ...], start: int, count: int, kind: str) -> StepTable:
    sigmas = timetable[start : start + count]
    places = np.interp([-sigma for sigma in sigmas], [-sigma for sigma in table.sigmas], np.arange(table.steps))
    logarithms = np.interp(places, np.arange(table.steps), np.cumsum(np.log(table.ratios)))
    weights = cubic(*([flow_time(sigma, "flow" in kind) for sigma in levels] for levels in (table.sigmas, sigmas)))
    gram = (weights @ table.inner_products() @ weights.T).tolist() if table.gram else []
    return StepTable(
        denoiser=table.denoiser,
        kind=table.kind,
        parameters=table.parameters,
        start=start,
        timetable=timetable,
        runs=tuple(_trace(run, places) for run in table.runs),
        ratios=(1.0, *round_row(np.exp(np.diff(logarithms)).tolist(), 6)),
        curves=table.curves,
        gram=tuple(round_row(row[: index + 1], 9) for index, row in enumerate(gram)),
    )


def _trace(run: RunTrace, places: Array) -> RunTrace:
    """`places` are the new steps in terms of the recorded ones, with fractions."""
    changes = {}
    for name, values in run.changes.items():
        changes[name] = (math.nan, *_add(values, places))
    return RunTrace(
        changes=changes,
        drifts={depth: _band(rows, places, growing=True) for depth, rows in run.drifts.items()},
        rates=_band(run.rates, places, growing=False),
        moves=(0.0, *_add(run.moves, places)),
        sizes=round_row(np.interp(places, np.arange(len(run.sizes)), run.sizes).tolist()),
    )


def _add(values: Sequence[float], places: Array) -> tuple[float, ...]:
    """What adds up between consecutive places. An entry belongs to the way from the step before."""
    path = np.cumsum(np.nan_to_num([0.0, *values[1:]]))
    return round_row(np.diff(np.interp(places, np.arange(len(values)), path)).tolist())


def _band(rows: Rows, places: Array, growing: bool) -> Rows:
    """Row by row the entries for 1, 2, ... new steps before, at most `LAGS`."""
    found = []
    for index, place in enumerate(places.tolist()):
        lags = [place - before for before in places[max(index - LAGS, 0) : index].tolist()[::-1]]
        found.append(round_row([_at(rows, place, lag, growing) for lag in lags]))
    return tuple(found)


def _at(rows: Rows, place: float, lag: float, growing: bool) -> float:
    # The first row has no entries, because nothing is before it: its successor's are as near as it gets.
    low, high = max(math.floor(place), 1), max(math.ceil(place), 1)
    share = min(max(place - low, 0.0), 1.0)
    below = at_lag(rows[low], lag, growing)
    return below if share == 0 else (1 - share) * below + share * at_lag(rows[high], lag, growing)


def cubic(known: Sequence[float], wanted: Sequence[float]) -> Array:
    """(wanted, known) weights of cubic Hermite interpolation with the slopes of parabolas through three neighbours.

    Exact for parabolas, and constant beyond the ends. `known` falls; where it stands still, the last entry counts.
    """
    times = np.asarray(known, dtype=np.float64)
    distinct = np.flatnonzero(np.append(np.diff(times) < 0, True))
    nodes, count = times[distinct], len(distinct)
    weights = np.zeros((len(wanted), len(times)))
    if count == 1:
        weights[:, distinct[0]] = 1.0
        return weights
    slopes = _slopes(nodes)
    for row, time in enumerate(np.clip(wanted, nodes[-1], nodes[0])):
        left = min(int(np.searchsorted(-nodes, -time, side="right")) - 1, count - 2)
        width = nodes[left + 1] - nodes[left]
        u = (time - nodes[left]) / width
        combined = width * (u * (1 - u) ** 2 * slopes[left] - u**2 * (1 - u) * slopes[left + 1])
        combined[left] += (1 + 2 * u) * (1 - u) ** 2
        combined[left + 1] += u**2 * (3 - 2 * u)
        weights[row, distinct] = combined
    return weights


def _slopes(nodes: Array) -> Array:
    """(n, n): each row gives the derivative, at one node, of the parabola through it and its neighbours."""
    count = len(nodes)
    slopes = np.zeros((count, count))
    for node in range(count):
        near = (
            range(count) if count < 3 else range(min(max(node - 1, 0), count - 3), min(max(node - 1, 0), count - 3) + 3)
        )
        for one in near:
            for left_out in near:
                if left_out != one:
                    others = [other for other in near if other not in (one, left_out)]
                    product = math.prod((nodes[node] - nodes[o]) / (nodes[one] - nodes[o]) for o in others)
                    slopes[node, one] += product / (nodes[one] - nodes[left_out])
    return slopes
