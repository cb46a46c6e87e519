"""What a cache would have decided, from recorded numbers: no model runs.

The numbers are those of a run without caching, while a cache changes what it then measures. So this is exact for
schedules and for signals that do not depend on the outputs (the time embedding), and an estimate for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.policy import NO_HISTORY, guard

if TYPE_CHECKING:
    from accel.anatomy import Anatomy
    from accel.caching.cache_method import Cache, CacheMethod

C = TypeVar("C", bound="Cache")


def compute_mask(
    method: CacheMethod, table: StepTable, trace: RunTrace, run: range, anatomy: Anatomy | None = None
) -> tuple[bool, ...]:
    """For each step whether it computes. `run` are the positions of the whole run, with this denoiser or another.

    The same rules in the same order as in `CacheGate`. anatomy: of the pipeline, where it is at hand.
    """
    distance, policy = method.recorded_parts(table, trace, anatomy)
    span = range(table.start, table.start + table.steps)
    policy.begin(table.timetable, span, len(run))
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
        if forced or not policy.decide(measured, position, total).skip:
            policy.after_compute()
            computed.append(step)
    return tuple(step in computed for step in range(table.steps))


def whole(tables: Sequence[StepTable]) -> range:
    """The positions of the whole run that these tables, one for each expert, are of."""
    return range(min(table.start for table in tables), max(table.start + table.steps for table in tables))


def compute_masks(method: CacheMethod, tables: Sequence[StepTable]) -> list[tuple[bool, ...]]:
    """For each recorded run the steps that compute; two experts one after the other."""
    columns = [[compute_mask(method, table, trace, whole(tables)) for trace in table.runs] for table in tables]
    return [tuple(step for part in run for step in part) for run in zip(*columns, strict=False)]


def fit_threshold(method: C, tables: Sequence[StepTable], compute: float) -> C:
    """The method with its dial at the setting whose simulated share of computed steps is nearest to `compute`.

    Raises ValueError where the method has no dial, or its own guards keep it from computing as little.
    """
    dial = method.dial()
    if dial is None:
        raise ValueError(f"{type(method).__name__} has no dial to be turned for speed; accel.compare measures it.")
    if not 0.0 < compute <= 1.0:
        raise ValueError(f"The fraction of the steps to compute must be above 0 and at most 1, not {compute!r}.")
    limits = next(field.metadata["setting"] for field in fields(method) if field.name == dial)

    def at(value: float) -> float:
        return replace(method, **{dial: value}).computed_share(tables)

    least = at(limits.high if limits.high is not None else math.inf)
    if compute < least - 0.5 / sum(table.steps for table in tables):
        raise ValueError(
            f"{type(method).__name__} computes at least {least:.2f} of the steps whatever its {dial}, so not "
            f"{compute:g}, because of {_guards(method)}."
        )
    values = range(1, max(table.steps for table in tables) + 1) if limits.integer else _bisect(at, compute)
    best = min(values, key=lambda value: abs(at(value) - compute))
    return replace(method, **{dial: best})


def _guards(method: Cache) -> str:
    """The settings that keep a method from skipping, whatever it measures."""
    known = ("warmup", "final", "retention", "max_skips", "most", "max_cached", "min_steps")
    return ", ".join(f"{name}={getattr(method, name)}" for name in known if hasattr(method, name))


def _bisect(at: Callable[[float], float], compute: float) -> list[float]:
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
