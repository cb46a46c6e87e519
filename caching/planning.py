"""Which steps of a run to compute: dynamic programming over the error that each gap would leave in the result.

The error of a forecast is a fixed combination of the denoiser's outputs, so all that must be known about a model is how
its outputs at different noise levels resemble each other: a table of features per step, whose inner products are the
outputs' (measured by `accel.caching.calibrate`). Of a model that was never measured nothing is presumed: its plan
spreads the computed steps evenly, over step numbers and over the logarithm of the signal-to-noise ratio, which is as
good on models that nobody has seen as on those that it was chosen on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from accel.parametrization import Array, euler_weights, flow_time, lagrange

# How much of the forecast's own error stays: the output of the step that corrects it was computed on wrong latents.
COUPLING = 0.1
# An error at noise-to-signal ratio r changes the result by about 1 + r^0.75 times itself. Measured on the pocket model
# at guidance 6 with single gaps: 17 at r = 49, 11 at 19, 6 at 10, 3 at 6, 2 at 4, 1.7 at 2, 0.9 at 0.7.
GROWTH = 0.75
EXTREMES = math.exp(-5.0), math.exp(5.0)  # noise-to-signal ratios beyond which nothing is decided


@dataclass(frozen=True)
class PlanRules:
    """The constraints of a plan, as in `CacheMethod`, and how skipped outputs are made."""

    warmup: int = 1
    final: int = 1
    max_skips: int = 7
    dense: int = 14  # how many computed steps can spare some for both ends, see `_spared`
    spread: float = 0.15  # of an even plan, see `uneven`
    growth: float = math.inf  # a gap is at most so many times as long as the one before it
    order: int = 1  # of the forecast: 0 or 1
    corrector: int = 2  # degree of the correction: 0 (none), 1 or 2


def plan_steps(
    sigmas: Sequence[float],
    compute: float,
    *,
    flow: bool,
    features: Array | None = None,
    rules: PlanRules | None = None,
) -> tuple[bool, ...]:
    """For each step of a run whether to compute it: the plan of least predicted error.

    sigmas: noise level of each step and, last, of the end, (steps + 1). compute: fraction of the steps that compute, or
    as near to it as the rules allow. features: (steps, K), with the inner products of the denoiser's outputs (of its
    clean estimates, for epsilon and v models); left out, the plan is even (`uneven`). Takes 0.04 s for 50 steps and a
    second for 1000; the same question without features is looked up in memory.
    """
    rules = _spared(rules or PlanRules(), round(compute * (len(sigmas) - 1)))
    if features is None:
        return _planned(tuple(sigmas), compute, flow, rules)
    levels = np.asarray(sigmas, dtype=np.float64)
    errors = gap_errors(levels, flow, features, rules)
    return _plan(errors, compute, rules)


def _spared(rules: PlanRules, count: int) -> PlanRules:
    """The rules for a plan of so many steps. Many can spare some for a dense start, because lines are short at first,
    and for both ends; few are too far apart for lines, and best spread as evenly as fewer steps are.
    """
    if count < rules.dense:
        return replace(rules, spread=0.0)
    return replace(rules, warmup=max(rules.warmup, 2), growth=2.0)


@lru_cache(maxsize=64)
def _planned(sigmas: tuple[float, ...], compute: float, flow: bool, rules: PlanRules) -> tuple[bool, ...]:
    return _plan(uneven(np.asarray(sigmas), flow, rules), compute, rules)


def _plan(errors: Array, compute: float, rules: PlanRules) -> tuple[bool, ...]:
    total = int(errors.shape[1])
    if total <= rules.warmup + rules.final:
        return (True,) * total
    errors = errors.copy()
    for before in range(1, errors.shape[0]) if rules.growth < math.inf else ():
        errors[before, :, max(int(rules.growth * before), 1) + 1 :] = np.inf
    chosen = cheapest(errors, total, max(round(compute * total), 1), rules)
    return tuple(step in chosen for step in range(total))


def uneven(sigmas: Array, flow: bool, rules: PlanRules) -> Array:
    """What uneven gaps cost, in the form of `gap_errors`: the cube of each gap's length, as the error of a
    forecast that is corrected grows with a gap. Length is counted in shares of the run, `spread` of it in log-SNR and
    the rest in step numbers: more of it takes steps from the middle of a run to both of its ends.
    """
    total, most = len(sigmas) - 1, rules.max_skips + 1
    levels, numbers = -np.log(np.clip(_ratios(sigmas[:-1], flow), *EXTREMES)), np.arange(total) / max(total - 1, 1)
    levels = np.abs(levels - levels[0])  # rising noise (inversion) is as far
    way = (1.0 - rules.spread) * numbers + rules.spread * levels / max(levels[-1], 1e-9)
    found = np.full((most + 1, total, most + 1), np.inf)
    found[:, :, 1] = 0.0
    for gap in range(2, most + 1):
        found[:, : max(total - gap, 0), gap] = np.abs(way[gap:] - way[:-gap]) ** 3
    return found


def gap_errors(sigmas: Array, flow: bool, features: Array, rules: PlanRules) -> Array:
    """[before, step, gap]: squared error that is left in the result if, `before` steps after the last but one computed
    step, `step` computes, and then only `gap` steps later the next. Infinite where the run has no such steps.
    """
    total, most = len(sigmas) - 1, rules.max_skips + 1
    times, weights = _times(sigmas[:-1], flow), euler_weights(sigmas, flow)
    found = np.full((most + 1, total, most + 1), np.inf)
    found[:, :, 1] = 0.0
    for before in range(1, most + 1):
        for gap in range(2, most + 1):
            steps = np.arange(before, total - gap)
            if len(steps):
                known = [steps - before, steps]
                wrong = _error(features, times, weights, known[-rules.order - 1 :], steps, gap)
                left = wrong
                if rules.corrector:
                    nodes = [*known, steps + gap][-rules.corrector - 1 :]
                    left = _error(features, times, weights, nodes, steps, gap)
                growth = _growth(sigmas[steps + gap], flow)
                size = np.linalg.norm(left, axis=1) + COUPLING * np.linalg.norm(wrong, axis=1)
                found[before, steps, gap] = (growth * size) ** 2
    return found


def cheapest(errors: Array, total: int, budget: int, rules: PlanRules) -> set[int]:
    """The steps to compute, `budget` of them or as near to it as the rules allow, with the least sum of gap errors."""
    most, forced, start = errors.shape[0] - 1, total - rules.final, rules.warmup - 1
    counts = min(total, budget + total // most + rules.warmup + rules.final + 1)
    # cost[m, c, g]: m + 1 steps compute up to c, and the one before c is c - g. Its origin is that one's own g.
    cost = np.full((counts, total, most + 1), np.inf)
    origin = np.zeros((counts, total, most + 1), dtype=np.int64)
    cost[start, start, 1] = 0.0
    for step in range(start, total - 1):
        for gap in range(1, min(most, total - 1 - step) + 1):
            if gap == 1 or step + gap <= forced:
                through = cost[:-1, step, :] + errors[:, step, gap]  # (m, before)
                best = through.argmin(1)
                cost[1:, step + gap, gap] = through[np.arange(counts - 1), best]
                origin[1:, step + gap, gap] = best
    ends = cost[:, total - 1, :].min(1)
    count = min(np.flatnonzero(np.isfinite(ends)).tolist(), key=lambda known: (abs(known + 1 - budget), known))
    step, gap, chosen = total - 1, int(cost[count, total - 1].argmin()), set(range(rules.warmup))
    while step > start:
        chosen.add(step)
        count, step, gap = count - 1, step - gap, int(origin[count, step, gap])
    return chosen


def _error(features: Array, times: Array, weights: Array, nodes: list[Any], steps: Any, gap: int) -> Array:
    """What is wrong with the latents after the gaps that begin at `steps`, in features: (len(steps), K)."""
    wrong = np.zeros((len(steps), features.shape[1]))
    for offset in range(1, gap):
        skipped = steps + offset
        shares = lagrange([times[node] for node in nodes], times[skipped])
        answer = sum(
            (np.reshape(share, (-1, 1)) * features[node] for share, node in zip(shares, nodes, strict=True)),
            start=-features[skipped],
        )
        wrong += weights[skipped][:, None] * answer
    return wrong


def _ratios(sigmas: Array, flow: bool) -> Array:
    """Noise-to-signal ratio, kept from zero and infinity."""
    return np.asarray(np.clip(sigmas / np.maximum(1.0 - sigmas, 1e-4) if flow else sigmas, 1e-4, 1e4))


def _times(sigmas: Array, flow: bool) -> Array:
    """Where outputs are polynomials (`StepContext.time`). Solvers that evaluate twice at one level get distinct
    times."""
    return np.asarray(flow_time(sigmas, flow) - 1e-6 * np.arange(len(sigmas)))


def _growth(sigmas: Array, flow: bool) -> Array:
    ratios = _ratios(sigmas, flow)
    growth = 1.0 + ratios**GROWTH
    # Of epsilon and v models the errors are of latents divided by the noise level, see `euler_weights`.
    return np.asarray(growth if flow else growth * ratios / (1.0 + ratios))
