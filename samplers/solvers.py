"""Solvers for the sampling equation that ask the denoiser once per step, as weights that depend on noise levels alone.

In the coordinates of `Sampler` the equation is dx/dt = velocity, whatever the model predicts. With outputs v_0 (the
newest), v_1, ... every solver below is x' = keep x + w_0 v_0 + w_1 v_1 + ..., and only the weights differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from accel.method import setting
from accel.parametrization import lagrange
from accel.samplers.sampler import Sampler, Space, UpdateWeights

Rows = list[list[float]]

EDGE = 1e-6  # log-SNR is infinite at pure noise, where flow models start; diffusers' UniPC moves the start by as much


@dataclass(frozen=True)
class SchedulerSolver(Sampler):
    """The scheduler's own update, for other noise levels (`sigmas`) or fewer steps (`steps`) alone. Memory: none.

    Source: diffusers' schedulers. Not a better solver: with fewer steps it is what the pipeline gives with so many.
    """

    @classmethod
    def for_tuning(cls) -> Sequence[SchedulerSolver]:
        return (cls(steps=0.5), cls(steps=0.35))

    @property
    def depth(self) -> int:
        return 0


@dataclass(frozen=True)
class Euler(Sampler):
    """Order 1: x' = x + (t' - t) v. The update of FlowMatchEuler, Euler and DDIM (arXiv 2010.02502) schedulers alike.

    For pipelines whose scheduler is one of these it changes nothing (to rounding); it is there to compare with, and to
    give a pipeline with a multistep scheduler steps that a cache can correct. Memory: none.
    """

    def weights(self, times: Sequence[float], following: float, remaining: int) -> UpdateWeights:
        return UpdateWeights(1.0, (following - times[-1],))


@dataclass(frozen=True)
class PseudoCorrector(Sampler):
    """Order 2 at one evaluation per step: each Euler step is corrected by the trapezoidal rule when the next output is
    there, without asking again at the corrected point (FlowTurbo's pseudo-corrector, arXiv 2409.18128).

    x_i = x_(i-1) + h_(i-1) (v_(i-1) + v_i) / 2 with v_i from the uncorrected point, then x_i + h_i v_i goes to the
    pipeline. In terms of the point that the pipeline holds this is x + (h_i + h_(i-1)/2) v_i - h_(i-1)/2 v_(i-1), so a
    pipeline that changes its latents between steps (inpainting) is not undone. Memory: one latent in float32. Not to
    stay near the pipeline's own output: it comes nearer to many steps.
    """

    @classmethod
    def for_tuning(cls) -> Sequence[PseudoCorrector]:
        return tuple(cls(steps=share) for share in (0.7, 0.5, 0.4, 0.35, 0.3))

    @property
    def depth(self) -> int:
        return 2

    def weights(self, times: Sequence[float], following: float, remaining: int) -> UpdateWeights:
        step = following - times[-1]
        if len(times) == 1:
            return UpdateWeights(1.0, (step,))
        half = (times[-1] - times[-2]) / 2
        return UpdateWeights(1.0, (-half, step + half))


@dataclass(frozen=True)
class AdamsBashforth(Sampler):
    """Integrates the polynomial through the last `order` velocities, exactly for steps of any size.

    Source: Bashforth and Adams, 1883; in diffusion PNDM (arXiv 2202.09778), with steps of one size. Order 2 is Euler
    with the velocity extrapolated to the middle of the step: x' = x + h (v + (v - v') h / (2 h')), where h' is the step
    that led here and v' the velocity before it. A velocity that bends sharply is
    overshot: where steps are few and guidance is high, the pseudo-corrector is safer, and order 3 is for long smooth
    runs. Memory: order - 1 latents in float32. Not for few steps at high guidance.
    """

    order: int = setting(2, 2, 3, "velocities used; the order of convergence", dial=True)

    @property
    def depth(self) -> int:
        return self.order

    def weights(self, times: Sequence[float], following: float, remaining: int) -> UpdateWeights:
        known = list(times[-self.order :])
        start, middle = known[-1], (known[-1] + following) / 2
        sixth = (following - start) / 6  # Simpson's rule is exact for what three velocities span
        shares = zip(*(lagrange(known, time) for time in (start, middle, following)), strict=True)
        return UpdateWeights(1.0, tuple(sixth * (first + 4 * half + last) for first, half, last in shares))


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++ (arXiv 2211.01095), multistep, in log-SNR: the clean estimate is continued as a polynomial and the
    linear part of the equation is solved exactly.

    order 2 is "2M" with the midpoint rule, 1 is DDIM. The last step of a run is of order 1, because to noise level 0 it
    is infinitely long in log-SNR. (The "3M" of the published code and of diffusers lacks a factor of 2 in its second
    difference and converges with order 2 only; take UniPC(3).) Memory: one latent in float32. Not to stay near the
    pipeline's own output: it comes nearer to many steps.
    """

    order: int = setting(2, 1, 2, "clean estimates used", dial=True)

    @property
    def space(self) -> Space:
        return "clean"

    @property
    def depth(self) -> int:
        return self.order

    def weights(self, times: Sequence[float], following: float, remaining: int) -> UpdateWeights:
        order = min(self.order, len(times), remaining)
        keep, older = following / times[-1], [0.0] * (len(times) - order)
        if order == 1 or following <= 0.0:
            return UpdateWeights(keep, (*[0.0] * (len(times) - 1), 1.0 - keep))
        ratios, h = _ratios(times[-2:], following)
        scale, half = -(1.0 - following) * math.expm1(-h), 0.5 / ratios[0]
        return UpdateWeights(keep, (*older, scale * half, scale * (1.0 - half)))


@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC (arXiv 2302.04867), the B2(h) = e^h - 1 variant on clean estimates: a predictor of order `order` and a
    corrector that uses each new output once more, for the step that led to it; no extra evaluation.

    The corrector is applied as a difference to what the pipeline holds, which is the same as diffusers' formula until a
    pipeline changes its latents between steps (inpainting), and then keeps the change. Memory: `order` latents in
    float32. Not to stay near the pipeline's own output: it comes nearer to many steps.
    """

    order: int = setting(2, 1, 3, "clean estimates that the predictor uses", dial=True)

    @classmethod
    def for_tuning(cls) -> Sequence[UniPC]:
        return (cls(steps=0.5), cls(steps=0.35))

    @property
    def space(self) -> Space:
        return "clean"

    @property
    def depth(self) -> int:
        return self.order + 1

    def weights(self, times: Sequence[float], following: float, remaining: int) -> UpdateWeights:
        total, keep = len(times), following / times[-1]
        order = min(self.order, total, remaining)
        update = [*[0.0] * (total - order), *_predictor(times[-order:], following)]
        if total > 1:
            order = min(self.order, total - 1, remaining + 1)
            change = [*[0.0] * (total - order - 1), *_correction(times[-order - 1 :])]
            update = [share + keep * more for share, more in zip(update, change, strict=True)]
        return UpdateWeights(keep, tuple(update))


def log_snr(time: float) -> float:
    """log((1 - t) / t), half of what is called log-SNR of the power."""
    time = min(max(time, EDGE), 1.0 - EDGE)
    return math.log((1.0 - time) / time)


# A handful of numbers in each step: lists, because arrays would take ten times as long as the arithmetic.


def _predictor(times: Sequence[float], following: float) -> list[float]:
    """UniP of as many orders as `times`: x' = keep x + these weights of the outputs."""
    order, keep = len(times), following / times[-1]
    if following <= 0.0 or order == 1:
        return [*[0.0] * (order - 1), 1.0 - keep]
    ratios, h = _ratios(times, following)
    scale = -(1.0 - following) * math.expm1(-h)
    weights = [scale * share for share in _differences(ratios, _predicting(*_conditions([*ratios, 1.0], h)))]
    weights[-1] += 1.0 - keep
    return weights


def _correction(times: Sequence[float]) -> list[float]:
    """What UniC adds to the point at the last of `times`, where UniP went from the one before: weights of all outputs.

    The linear part and the newest output of the predictor's formula are in the corrector's too and cancel.
    """
    *known, now = times
    ratios, h = _ratios(known, now)
    matrix, right = _conditions([*ratios, 1.0], h)
    *corrected, last = [0.5] if len(known) == 1 else _solved(matrix, right)
    changes = [new - old for new, old in zip(corrected, _predicting(matrix, right), strict=True)]
    weights = [*_differences(ratios, changes), last]
    weights[-2] -= last
    return [-(1.0 - now) * math.expm1(-h) * weight for weight in weights]


def _ratios(times: Sequence[float], following: float) -> tuple[list[float], float]:
    """r_k = (lambda_k - lambda_0) / h for the outputs before the newest, the nearest first, and h itself."""
    start = log_snr(times[-1])
    h = log_snr(following) - start
    return [(log_snr(time) - start) / h for time in times[-2::-1]], h


def _conditions(ratios: Sequence[float], h: float) -> tuple[Rows, list[float]]:
    """The order conditions R(p) rho = b of UniPC's theorem, in its own notation with B(h) = e^-h - 1."""
    hh, b, factorial = -h, [], 1.0
    phi = math.expm1(hh) / hh - 1.0
    for i in range(1, len(ratios) + 1):
        b.append(phi * factorial / math.expm1(hh))
        factorial *= i + 1
        phi = phi / hh - 1.0 / factorial
    return [[ratio**i for ratio in ratios] for i in range(len(ratios))], b


def _predicting(matrix: Rows, right: list[float]) -> list[float]:
    """The predictor's rho: as the corrector's, without the condition that the new output would fulfil; 1/2 for order 2,
    where the authors simplify."""
    return [0.5] if len(right) == 2 else _solved([row[:-1] for row in matrix[:-1]], right[:-1])


def _solved(matrix: Rows, right: list[float]) -> list[float]:
    """rho of R rho = b by elimination: powers of different numbers need no exchange of rows."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for at, pivot in enumerate(rows):
        for row in rows:
            if row is not pivot:
                share = row[at] / pivot[at]
                row[at:] = [one - share * other for one, other in zip(row[at:], pivot[at:], strict=True)]
    return [row[-1] / row[at] for at, row in enumerate(rows)]


def _differences(ratios: Sequence[float], rho: Sequence[float]) -> list[float]:
    """Weights of the outputs, oldest first, in the sum over k of rho_k (m_k - m_0) / r_k."""
    shares = [weight / ratio for weight, ratio in zip(rho, ratios, strict=True)]
    return [*reversed(shares), -sum(shares)]
