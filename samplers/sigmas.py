"""Noise levels for a run, as functions of what the scheduler would have chosen: at the same number of steps a better
spacing is free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from accel.anatomy import Anatomy
from accel.method import Method, finite_numbers, setting


@dataclass(frozen=True)
class Grid:
    """The noise levels that the scheduler chose for a run, in its own terms: 1..0 for flows, else noise over signal."""

    levels: tuple[float, ...]  # of the steps, falling
    flow: bool
    shift: float = 1.0  # what the scheduler makes of an unshifted flow: see `shift_sigma`
    call: Mapping[str, Any] = field(default_factory=dict)  # the pipeline call's arguments
    ladder: tuple[float, ...] = ()  # noise over signal of every training timestep, rising; none for flows

    @property
    def least(self) -> float:
        """The last noise level above zero."""
        return min(level for level in self.levels if level > 0.0)


class Sigmas(Method, lever="sigmas", abstract=True):
    """Base of the schedules of noise levels."""

    def levels(self, grid: Grid) -> list[float]:
        """As many noise levels as `grid` has, falling and above zero. Raises ValueError, in one sentence, where this
        run cannot have them."""
        raise NotImplementedError

    def obstacle(self, anatomy: Anatomy, scheduler: str) -> str | None:
        """Why that scheduler cannot have these noise levels, and what to do; None if it can."""
        if anatomy.levels[scheduler] is None:
            return (
                f"{anatomy.schedulers[scheduler]} with its present settings chooses its noise levels itself: leave "
                f"them to it (sigmas=None)."
            )
        return None


class FlowSigmas(Sigmas, lever="sigmas", abstract=True):
    """Base of the schedules that are defined for flow models."""

    def obstacle(self, anatomy: Anatomy, scheduler: str) -> str | None:
        reason = super().obstacle(anatomy, scheduler)
        if reason is None and anatomy.samples[scheduler] != "flow":
            reason = f"{type(self).__name__} is for flow models, and this one is not: take Karras or AlignYourSteps."
        return reason


@dataclass(frozen=True)
class Karras(Sigmas, lever="sigmas"):
    """Evenly spaced in sigma^(1/rho) (EDM, arXiv 2206.00364, eq. 5): dense at low noise.

    sigma_i = (a + i / (n - 1) (b - a))^rho, with a and b the rho-th roots of the first and the last level.

    What unlocks second-order solvers on epsilon models. Not below about 6 steps, where it is worse than even timesteps.
    On flows it is taken in the flow's own sigma, as diffusers does, and seldom helps. least 0 keeps the scheduler's
    last level.
    """

    rho: float = setting(7.0, 1.0, 20.0, "larger is denser at low noise")
    least: float = setting(0.0, 0.0, 1.0, "last noise level above zero; 0 keeps the scheduler's")

    def levels(self, grid: Grid) -> list[float]:
        most, least = grid.levels[0], self.least or grid.least
        ramp = np.linspace(most ** (1 / self.rho), least ** (1 / self.rho), len(grid.levels))
        return _floats(ramp**self.rho)


@dataclass(frozen=True)
class Exponential(Sigmas, lever="sigmas"):
    """Evenly spaced in log sigma: sigma_i = a (b / a)^(i / (n - 1)) from the first level a to the last b.

    Source: DPM-Solver (arXiv 2206.00927), whose steps are even in log-SNR; k-diffusion's "exponential". least 0 keeps
    the scheduler's last level. Not for few steps: half of them lie below the geometric mean of both levels, where
    little is left to decide.
    """

    least: float = setting(0.0, 0.0, 1.0, "last noise level above zero; 0 keeps the scheduler's")

    def levels(self, grid: Grid) -> list[float]:
        return _floats(np.geomspace(grid.levels[0], self.least or grid.least, len(grid.levels)))


@dataclass(frozen=True)
class Beta(Sigmas, lever="sigmas"):
    """At the quantiles of a beta distribution (arXiv 2407.12173): dense at both ends for alpha and beta below 1.

    sigma_i = b + (a - b) F^-1(1 - i / (n - 1)) from the first level a to the last b, with F the cumulative
    Beta(alpha, beta). Not where the middle of a run decides the picture (strong guidance): its steps are the largest.
    """

    alpha: float = setting(0.6, 0.05, 10.0, "below 1: dense at low noise", dial=True)
    beta: float = setting(0.6, 0.05, 10.0, "below 1: dense at high noise")

    def levels(self, grid: Grid) -> list[float]:
        shares = beta_quantiles(np.linspace(1.0, 0.0, len(grid.levels)), self.alpha, self.beta)
        return _floats(grid.least + (grid.levels[0] - grid.least) * shares)


@dataclass(frozen=True)
class Shift(FlowSigmas, lever="sigmas"):
    """Even flow times from 1 to 1/steps, shifted towards noise: sigma' = k sigma / (1 + (k - 1) sigma).

    The last step is as large as the others: schedulers that space to their least sigma spend an evaluation on almost
    nothing there. shift 0 keeps the scheduler's own shift, resolution-dependent or not. Not another shift than the
    model was trained or tuned with, unless measured.

    With `pixels` the shift is that of a picture or clip of that many pixels (height x width x frames) and grows with
    the square root of how much larger the call asks for (SD3, arXiv 2403.03206, eq. 23): larger pictures need more
    noise to be as uncertain.
    """

    shift: float = setting(0.0, 0.0, 100.0, "more than 1 spends steps at high noise; 0 keeps the scheduler's")
    pixels: int = setting(0, 0, None, "for which size the shift is right; 0 does not depend on the size")

    def levels(self, grid: Grid) -> list[float]:
        shift = (self.shift or grid.shift) * (resolution_factor(grid.call, self.pixels) if self.pixels else 1.0)
        steps = len(grid.levels)
        return [shift_sigma(1.0 - step / steps, shift) for step in range(steps)]


@dataclass(frozen=True)
class Sway(FlowSigmas, lever="sigmas"):
    """Sway sampling (F5-TTS, arXiv 2410.06885): flow time t, 0 at noise, becomes t + s (cos(pi t/2) - 1 + t).

    s = -1 is dense near noise. A gain below ten or so steps. Not for many steps, where it is a loss. shift 0 keeps the
    scheduler's own shift on top; the paper's model has none (1).
    """

    s: float = setting(-1.0, -1.0, 1.0 / (math.pi / 2 - 1), "below 0: dense near noise; above: dense near the picture")
    shift: float = setting(0.0, 0.0, 100.0, "shift applied afterwards; 0 is the scheduler's, 1 is none")

    def levels(self, grid: Grid) -> list[float]:
        steps, shift = len(grid.levels), self.shift or grid.shift
        return [shift_sigma(1.0 - sway_time(step / steps, self.s), shift) for step in range(steps)]


@dataclass(frozen=True)
class Sigmoid(FlowSigmas, lever="sigmas"):
    """A sigmoid of flow time, steeper after `center` than before: small steps at both ends, where a straight line is
    farthest from the path (Lumina-Next, arXiv 2406.18583, section 3.3; meant for second-order solvers in few steps).

    r(t) = 1 / (1 + exp(-k (t - center))), with k = `before` up to the center and `after` behind it. The paper's
    normalisation is not given: here the curve is stretched to keep 0 and 1, (r(t) - r(0)) / (r(1) - r(0)). shift 0
    keeps the scheduler's own shift on top; 1 is none. Not for solvers of order 1, nor for many steps.
    """

    center: float = setting(0.6, 0.0, 1.0, "flow time (0 at noise) where the steps are largest")
    before: float = setting(6.0, 0.1, 50.0, "steepness from noise to there")
    after: float = setting(20.0, 0.1, 50.0, "steepness from there to the picture")
    shift: float = setting(1.0, 0.0, 100.0, "shift applied afterwards; 0 is the scheduler's, 1 is none")

    def levels(self, grid: Grid) -> list[float]:
        steps, shift = len(grid.levels), self.shift or grid.shift
        ends = self._rise(0.0), self._rise(1.0)
        times = [(self._rise(step / steps) - ends[0]) / (ends[1] - ends[0]) for step in range(steps)]
        return [shift_sigma(1.0 - time, shift) for time in times]

    def _rise(self, time: float) -> float:
        steepness = self.before if time < self.center else self.after
        return 1.0 / (1.0 + math.exp(-steepness * (time - self.center)))


# The published noise levels (research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html), 10 steps and the end;
# diffusers' AysSchedules has them rounded.
ALIGN_YOUR_STEPS = {
    "sd": (
        14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092,
        0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582,
    ),
    "sdxl": (
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141,
        0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582,
    ),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}  # fmt: skip


@dataclass(frozen=True)
class AlignYourSteps(Sigmas, lever="sigmas"):
    """Noise levels optimised for Stable Diffusion 1.5, SDXL and Stable Video Diffusion (arXiv 2404.14507).

    Tables for 10 steps; other numbers by log-linear interpolation, as the authors do: log sigma is even between two
    entries. They were optimised for stochastic and second-order solvers. Not for other models, or those that were
    fine-tuned far away: these want a search of their own (`accel.samplers.search_sigmas`).
    """

    model: str = setting("sdxl", choices=("sd", "sdxl", "svd"), help="whose noise levels")

    def levels(self, grid: Grid) -> list[float]:
        return log_linear(ALIGN_YOUR_STEPS[self.model], len(grid.levels) + 1)[:-1]

    def obstacle(self, anatomy: Anatomy, scheduler: str) -> str | None:
        reason = super().obstacle(anatomy, scheduler)
        if reason is None and anatomy.samples[scheduler] == "flow":
            reason = "AlignYourSteps has no table for flow models: take accel.samplers.search_sigmas or Shift."
        return reason


@dataclass(frozen=True)
class SigmaTable(Sigmas, lever="sigmas"):
    """Listed noise levels, such as `accel.samplers.search_sigmas` finds; other numbers of steps by log-linear
    interpolation between the first and the last: sigma = exp(a line through log sigma at the list's places).

    sigmas: falling, above zero, as the scheduler counts them; the end of the run is not among them.
    Not published. Not for another model, scheduler or number of steps than it was searched for.
    """

    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        listed = self.sigmas
        if not (finite_numbers(listed) and len(listed) > 1 and min(listed) > 0 and _falling(listed)):
            raise ValueError(
                f"SigmaTable.sigmas must be a tuple of at least two falling noise levels above 0, such as "
                f"(1.0, 0.9, 0.5), not {listed!r}."
            )

    def levels(self, grid: Grid) -> list[float]:
        if len(grid.levels) == len(self.sigmas):
            return [float(sigma) for sigma in self.sigmas]
        return log_linear(self.sigmas, len(grid.levels))


def shift_sigma(sigma: float, shift: float) -> float:
    """A flow's noise level moved towards noise, shift sigma / (1 + (shift - 1) sigma); two shifts multiply."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def unshift_sigma(sigma: float, shift: float) -> float:
    """The inverse of `shift_sigma`."""
    return sigma / (shift - (shift - 1.0) * sigma)


def sway_time(time: float, s: float) -> float:
    """F5-TTS's warp of flow time (0 at noise); keeps 0 and 1."""
    return time + s * (math.cos(math.pi * time / 2) - 1.0 + time)


def resolution_factor(call: Mapping[str, Any], pixels: int) -> float:
    """The square root of how many times `pixels` the call asks for.

    Raises ValueError where the call does not say its size.
    """
    height, width = call.get("height"), call.get("width")
    if height is None or width is None:
        raise ValueError("the call does not say its height and width, which the resolution-dependent shift needs")
    return math.sqrt(float(height * width * (call.get("num_frames") or 1)) / pixels)


def log_linear(levels: Sequence[float], steps: int) -> list[float]:
    """`steps` noise levels at even places of a table, interpolated in their logarithm; keeps first and last."""
    places = np.linspace(0.0, len(levels) - 1.0, steps)
    return _floats(np.exp(np.interp(places, np.arange(len(levels)), np.log(levels))))


def beta_quantiles(shares: Any, alpha: float, beta: float) -> Any:
    """The inverse of the beta distribution's cumulative function, by quadrature (SciPy is not required).

    Each half is integrated in the power of x that takes its end's singularity away.
    """
    low, low_mass = _half(alpha, beta)
    high, high_mass = _half(beta, alpha)
    x = np.concatenate([low, 1.0 - high[::-1][1:]])
    mass = np.concatenate([low_mass, low_mass[-1] + high_mass[-1] - high_mass[::-1][1:]])
    return np.interp(shares, mass / mass[-1], x)


def _half(alpha: float, beta: float) -> tuple[Any, Any]:
    """x from 0 to 1/2 and the mass below it: with w = x^alpha the density is (1 - x)^(beta - 1) / alpha."""
    w = np.linspace(0.0, 0.5**alpha, 20001)
    x = w ** (1.0 / alpha)
    density = (1.0 - x) ** (beta - 1.0) / alpha
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(w))])
    return x, mass


def _falling(levels: Sequence[float]) -> bool:
    return all(before > after for before, after in pairwise(levels))


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]
