"""What a cache would have decided, from recorded numbers: no model runs.

The numbers are those of a run without caching, while a cache changes what it then measures. So this is exact for
schedules and for signals that do not depend on the answers (the time embedding), and an estimate for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import singledispatch
from typing import TypeVar

from accel.caching.dbcache import Capped, DBCache
from accel.caching.decider import NO_HISTORY, Accumulate, Decider, Every, Magnitude, guard
from accel.caching.dicache import DiCache, Retained
from accel.caching.easycache import EasyCache
from accel.caching.firstblock import FirstBlockCache, Within
from accel.caching.fora import FORA, Interval
from accel.caching.interval import FixedInterval
from accel.caching.magcache import MagCache
from accel.caching.method import CacheMethod
from accel.caching.reuse_method import ReuseMethod, ReusePolicy
from accel.caching.seacache import SeaCache
from accel.caching.smoothcache import Curves, SmoothCache
from accel.caching.static import Listed, StaticSchedule
from accel.caching.table import Table, Trace
from accel.caching.teacache import TeaCache
from accel.clock import Moment
from accel.method import Method

M = TypeVar("M", bound=Method)
# distance(step, computed): what the signal would measure in this step, given the steps computed before.
Distance = Callable[[int, Sequence[int]], float | None]
# The parameter that trades speed for fidelity: the first of these that a method has.
DIALS = ("threshold", "alpha", "interval")


@singledispatch
def parts(method: CacheMethod, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    """The recorded signal and a fresh decider of this method. A method is made replayable by registering it here.

    Raises ValueError, in one sentence, where that cannot be done.
    """
    known = ", ".join(sorted(kind.__name__ for kind in parts.registry if kind is not object))
    raise ValueError(
        f"{type(method).__name__} cannot be simulated: only {known}, FORA and SmoothCache can; "
        f"accel.compare measures it."
    )


@parts.register
def _(method: FixedInterval, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    return _nothing, Every(method.interval)


@parts.register
def _(method: StaticSchedule, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    return _nothing, Listed(method.sigmas)


@parts.register
def _(method: MagCache, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    if method.ratios is None:
        raise ValueError("MagCache without ratios cannot be simulated; take those of calibration.magcache().")
    return _nothing, Magnitude(method.ratios, method.threshold, method.most, method.retention)


@parts.register
def _(method: TeaCache, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    polynomial = method.given(table.denoiser)
    if polynomial is None:
        raise ValueError("TeaCache without coefficients cannot be simulated; take those of calibration.teacache().")
    change = _change(method, table, trace, polynomial.signal)

    def distance(step: int, computed: Sequence[int]) -> float | None:
        moved = change(step, computed)
        return None if moved is None else polynomial(moved, bool(method.clamp))

    return distance, Accumulate(method.threshold)


@parts.register
def _(method: SeaCache, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    if method.power:
        raise ValueError("SeaCache can be simulated at its default power only; set power=0.")
    return _change(method, table, trace, "spectral"), Accumulate(method.threshold)


@parts.register
def _(method: DiCache, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    if method.depth != 1 or method.mode != "delta_y":
        raise ValueError('DiCache can be simulated with depth=1 and mode="delta_y" only.')
    return _change(method, table, trace, "block_output"), Retained(method.retention, Accumulate(method.threshold))


@parts.register
def _(method: FirstBlockCache, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    return _drift(method, table, trace, 1), Within(method.threshold)


@parts.register
def _(method: DBCache, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    static = method.policy == "static"
    decider = Capped(None if static else method.threshold, method.max_cached, method.mask)
    return _nothing if static else _drift(method, table, trace, method.first), decider


@parts.register
def _(method: EasyCache, table: Table, trace: Trace) -> tuple[Distance, Decider]:
    def distance(step: int, computed: Sequence[int]) -> float | None:
        if len(computed) < 2:
            return None
        before, last = computed[-2:]
        return (
            at_lag(trace.rates[last], last - before, growing=False) * trace.moves[step] / max(trace.sizes[last], 1e-12)
        )

    return distance, Accumulate(method.threshold)


def mask(method: CacheMethod, table: Table, trace: Trace, run: range) -> tuple[bool, ...]:
    """For each step whether it computes. `run` are the positions of the whole run, with this denoiser or another.

    The same rules in the same order as in `CacheGate`.
    """
    distance, decider = parts(method, table, trace)
    span = range(table.start, table.start + table.steps)
    decider.begin(table.timetable, span, len(run))
    computed: list[int] = []
    total = len(table.timetable) - 1
    for step in range(table.steps):
        position = table.start + step
        forced = guard(
            step=position - run.start, steps=len(run), left=span.stop - position,
            skipped=step - computed[-1] - 1 if computed else 0,
            warmup=method.warmup, final=method.final, max_skips=method.max_skips, min_steps=method.min_steps,
        ) or (None if len(computed) >= method.fresh(method.predictor) else NO_HISTORY)  # fmt: skip
        measured = distance(step, computed)
        if forced or not decider.decide(measured, position, total).skip:
            decider.computed()
            computed.append(step)
    return tuple(step in computed for step in range(table.steps))


def whole(tables: Sequence[Table]) -> range:
    """The positions of the whole run that these tables, one for each expert, are of."""
    return range(min(table.start for table in tables), max(table.start + table.steps for table in tables))


def masks(method: CacheMethod, tables: Sequence[Table]) -> list[tuple[bool, ...]]:
    """For each recorded run the steps that compute; two experts one after the other."""
    columns = [[mask(method, table, trace, whole(tables)) for trace in table.runs] for table in tables]
    return [tuple(step for part in run for step in part) for run in zip(*columns, strict=False)]


def fraction(method: Method, tables: Sequence[Table]) -> float:
    """Mean share of the steps that compute; of a reuse method, the mean share over the kinds of modules as well."""
    if isinstance(method, ReuseMethod):
        shares = [share for table in tables for share in _reused(method, table, tables[0].start)]
        return 1.0 - sum(shares) / len(shares)
    if not isinstance(method, CacheMethod):
        raise ValueError(f"{type(method).__name__} cannot be simulated: it is no cache of this package.")
    steps = [step for run in masks(method, tables) for step in run]
    return sum(steps) / len(steps)


def _reused(method: ReuseMethod, table: Table, first: int) -> list[float]:
    """For each step the share of the kinds of modules that are reused."""
    kinds = frozenset(kind for kind, _ in table.curves)
    policy: ReusePolicy
    if isinstance(method, SmoothCache):
        policy = Curves(
            {kind: rows for name, kind, rows in method.errors or () if name == table.denoiser},
            method.alpha,
            method.most,
        )
    elif isinstance(method, FORA):
        policy = Interval(method.interval, kinds)
    else:
        raise ValueError(f"{type(method).__name__} cannot be simulated; SmoothCache and FORA can.")
    total = len(table.timetable) - 1
    positions = range(table.start, table.start + table.steps)
    moments = [Moment(0, place - first, place, total, table.timetable[place], first=first) for place in positions]
    return [len(reused) / max(len(kinds), 1) for reused in method.simulate(policy, moments)]


def tuned(method: M, tables: Sequence[Table], compute: float) -> M:
    """The method with its dial at the setting whose simulated fraction is nearest to `compute`.

    Raises ValueError where the method's own guards keep it from computing as little.
    """
    dial = next((name for name in DIALS if name in {field.name for field in fields(method)}), None)
    if dial is None:
        raise ValueError(f"{type(method).__name__} has none of {', '.join(DIALS)} to be chosen.")
    if not 0.0 < compute <= 1.0:
        raise ValueError(f"The fraction of the steps to compute must be above 0 and at most 1, not {compute!r}.")

    def at(value: float) -> float:
        return fraction(replace(method, **{dial: value}), tables)

    most = 1000 if dial == "interval" else math.inf
    least = at(most)
    if compute < least - 0.5 / sum(table.steps for table in tables):
        raise ValueError(
            f"{type(method).__name__} computes at least {least:.2f} of the steps whatever its {dial}, so not "
            f"{compute:g}, because of {_guards(method)}."
        )
    values = range(1, max(table.steps for table in tables) + 1) if dial == "interval" else _bisected(at, compute)
    best = min(values, key=lambda value: abs(at(value) - compute))
    return replace(method, **{dial: best})


def _guards(method: Method) -> str:
    """The settings that keep a method from skipping, whatever it measures."""
    known = ("warmup", "final", "retention", "max_skips", "most", "max_cached", "min_steps")
    return ", ".join(f"{name}={getattr(method, name)}" for name in known if hasattr(method, name))


def _bisected(at: Callable[[float], float], compute: float) -> list[float]:
    """Settings that close in on the one where the fraction, which falls with the setting, passes `compute`."""
    low, high = 0.0, 1e-4
    while at(high) > compute and high < 1e6:
        low, high = high, 2 * high
    found = [low, high]
    for _ in range(16):
        middle = float(f"{(low + high) / 2:.4g}")
        found.append(middle)
        low, high = (middle, high) if at(middle) > compute else (low, middle)
    return found


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


def _change(method: Method, table: Table, trace: Trace, signal: str) -> Distance:
    """The recorded change of a signal since the step before."""
    if signal not in trace.changes:
        raise ValueError(
            f"{type(method).__name__} cannot be simulated: there is no {signal.replace('_', ' ')} in the records, "
            f"because the {table.denoiser} has no such module."
        )
    changes = trace.changes[signal]
    return lambda step, computed: changes[step] if math.isfinite(changes[step]) else None


def _drift(method: Method, table: Table, trace: Trace, depth: int) -> Distance:
    """The recorded change of the first blocks' residual since the last computed step."""
    if depth not in trace.drifts:
        known = ", ".join(map(str, trace.drifts)) or "none"
        raise ValueError(
            f"{type(method).__name__} cannot be simulated behind {depth} blocks: recorded for the {table.denoiser} "
            f"are {known}."
        )
    rows = trace.drifts[depth]
    return lambda step, computed: at_lag(rows[step], step - computed[-1], growing=True) if computed else None


def _nothing(step: int, computed: Sequence[int]) -> None:
    return None
