"""SmoothCache: a schedule for every kind of module, from error curves that were recorded on this model."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from accel.anatomy import Anatomy
from accel.caching.cache_method import NotApplicable
from accel.caching.calibration.table import Rows, StepTable
from accel.caching.module_reuse import ReuseMethod, ReusePolicy
from accel.caching.modules import KINDS
from accel.clock import StepContext
from accel.method import finite_numbers, setting

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration

# (denoiser, kind of module, rows)
Curve = tuple[str, str, Rows]


@dataclass(frozen=True)
class SmoothCache(ReuseMethod):
    """Reuses each kind of module's outputs as long as the recorded error of doing so is at most `alpha`.

    Source: SmoothCache (arXiv 2411.10510), section 3. errors: the curves of `accel.calibrate(pipe,
    prompts).smoothcache()`, E(step, lag) = mean |L(step) - L(step + lag)| / |L(step + lag)| over depth and samples, for
    each kind. From a computed step, outputs are reused while the errors of all lags up to now stay within alpha, and
    for at most `most` steps. (The authors' code looks at the longest lag alone.) Curves are read by sigma, so that
    another step count or image-to-image works; a sigma outside of the recorded range is computed. Published: alpha 0.08
    / 0.18 / 0.22 for 1.1x / 1.7x / 2.0x on DiT-XL, 50 steps. They belong to one model, scheduler and guidance.
    No host sync, and every prompt, sample and device decides alike. Memory: one output of every module and stream. Not
    where memory is short: a cache at the denoiser's boundary keeps a few latents, and is nearer at the same speed.
    """

    advice = "every recorded error is above alpha: raise it"
    data_free = True

    alpha: float = setting(0.1, 0.0, None, "largest recorded error; 0 never reuses", dial=True)
    errors: tuple[Curve, ...] | None = None
    most: int = setting(3, 1, 1000, "most steps in a row that an output is reused for")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.errors is not None:
            object.__setattr__(self, "errors", _check(self.errors))  # JSON gives lists

    @classmethod
    def from_calibration(cls, calibration: Calibration, alpha: float = 0.1, **guards: Any) -> SmoothCache:
        """With the recorded error curves; it may reuse as many steps in a row as `layer_lags`. guards: see `TeaCache`.

        Raises ValueError where none were recorded.
        """
        curves = tuple((table.denoiser, *curve) for table in calibration.tables for curve in table.curves)
        if not curves:
            raise ValueError(
                "This calibration has no error curves for SmoothCache: it was recorded with layer_lags=0, or no "
                "attention or feed-forward module could be reached."
            )
        lags = max(len(row) - 1 for _, _, rows in curves for row in rows)
        return cls(alpha, curves, **{"most": max(lags, 1), **guards})

    @classmethod
    def cautions(cls, calibration: Calibration) -> Sequence[str]:
        if any(table.curves for table in calibration.tables):
            return ()
        return ("SmoothCache cannot be calibrated, because no error curves were recorded",)

    def fitted(self, calibration: Calibration) -> Self:
        return self if self.errors else replace(self, errors=self.from_calibration(calibration).errors)

    def kinds(self) -> frozenset[str]:
        return frozenset(kind for _, kind, _ in self.errors or ())

    def policy(self, anatomy: Anatomy, denoiser: str) -> ReusePolicy:
        curves = self._curves(denoiser)
        if not curves:
            raise NotApplicable(
                f"SmoothCache has no error curves for the {denoiser}. Record them once with "
                f"accel.calibrate(pipe, prompts).smoothcache(), or use FORA, which needs none."
            )
        return ErrorCurves(curves, self.alpha, self.most)

    def recorded_policy(self, table: StepTable) -> ReusePolicy:
        return ErrorCurves(self._curves(table.denoiser), self.alpha, self.most)

    def _curves(self, denoiser: str) -> dict[str, Rows]:
        return {kind: rows for name, kind, rows in self.errors or () if name == denoiser}


class ErrorCurves:
    """The greedy schedule, followed step by step."""

    probe: str | None = None

    def __init__(self, curves: Mapping[str, Rows], alpha: float, most: int) -> None:
        self.errors = {kind: MeasuredErrors(rows) for kind, rows in curves.items()}
        self.alpha, self.most = alpha, most
        self._computed: dict[str, float] = {}  # sigma
        self._reused = dict.fromkeys(curves, 0)

    def kinds_to_reuse(self, context: StepContext) -> frozenset[str]:
        return frozenset(
            kind
            for kind, errors in self.errors.items()
            if kind in self._computed
            and self._reused[kind] < self.most
            and errors.between(self._computed[kind], context.sigma) <= self.alpha
            and self.alpha > 0
        )

    def after_step(self, context: StepContext, reused: frozenset[str], change: float | None) -> None:
        for kind in self.errors:
            if kind in reused:
                self._reused[kind] += 1
            else:
                self._reused[kind], self._computed[kind] = 0, context.sigma


class MeasuredErrors:
    """One kind's error curve as a function of two noise levels."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._falling = [-row[0] for row in rows]  # rising, for bisection

    def between(self, computed: float, now: float) -> float:
        """The error of reusing at sigma `now` what was computed at sigma `computed`: exactly E(step, lag) where both
        are recorded, linear in step and lag in between, infinite where nothing was recorded.
        """
        start, end = self._step(computed), self._step(now)
        if start is None or end is None:
            return math.inf
        row, share = int(start), start - int(start)
        error = self._after(row, end - start)
        return error if share == 0 else (1 - share) * error + share * self._after(row + 1, end - start)

    def _step(self, sigma: float) -> float | None:
        """The place of a sigma in the recorded run, with its fraction."""
        values, last = self._falling, len(self._falling) - 1
        wanted, slack = -sigma, 1e-6 * max(abs(sigma), 1e-3)
        if not values[0] - slack <= wanted <= values[-1] + slack:
            return None
        row = bisect_right(values, wanted + slack) - 1
        if row >= last or abs(wanted - values[row]) <= slack:
            return float(min(row, last))
        return row + (wanted - values[row]) / (values[row + 1] - values[row])

    def _after(self, row: int, lag: float) -> float:
        known = (0.0, *self.rows[row][1:])
        low, share = int(lag), lag - int(lag)
        if lag < 0 or low + (share > 1e-9) >= len(known):
            return math.inf
        return known[low] if share <= 1e-9 else (1 - share) * known[low] + share * known[low + 1]


def _check(errors: Any) -> tuple[Curve, ...]:
    """The curves as nested tuples. Raises ValueError for anything else."""
    if isinstance(errors, (list, tuple)) and errors and all(_is_curve(curve) for curve in errors):
        return tuple((name, kind, tuple(tuple(map(float, row)) for row in rows)) for name, kind, rows in errors)
    raise ValueError(
        "SmoothCache.errors must be what accel.calibrate(pipe, prompts).smoothcache() sets: "
        "(denoiser, kind, rows of (sigma, errors...) in falling sigma) for each kind."
    )


def _is_curve(curve: Any) -> bool:
    if not (isinstance(curve, (list, tuple)) and len(curve) == 3 and isinstance(curve[0], str) and curve[1] in KINDS):
        return False
    rows = curve[2]
    if not (isinstance(rows, (list, tuple)) and rows and all(_is_row(row) for row in rows)):
        return False
    return all(one[0] >= another[0] for one, another in pairwise(rows))


def _is_row(row: Any) -> bool:
    return isinstance(row, (list, tuple)) and len(row) > 0 and finite_numbers(tuple(row))
