"""A Gaussian mixture whose score is known exactly: the one model for which the right output can be worked out.

Double precision throughout, and solvers are driven by their weights alone, so what is measured is the solver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from accel.samplers import Sampler

MEANS = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SPREAD = 0.5
MANY = 1000
"""Updates left, for a solver that is not to lower its order towards the end."""


def clean_estimate(x: torch.Tensor, time: float) -> torch.Tensor:
    """E[x0 | x] where x = (1 - t) x0 + t noise and x0 is drawn from the mixture."""
    signal = 1.0 - time
    variance = (signal * SPREAD) ** 2 + time**2
    offsets = x[:, None] - signal * MEANS  # (B, K, D)
    shares = torch.softmax(-offsets.square().sum(-1) / (2 * variance), dim=1)[..., None]
    return (shares * (MEANS + signal * SPREAD**2 / variance * offsets)).sum(1)


def velocity(x: torch.Tensor, time: float) -> torch.Tensor:
    """noise - x0, as a flow model predicts it."""
    return (x - clean_estimate(x, time)) / time


def noise(samples: int = 64) -> torch.Tensor:
    return torch.randn(samples, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def sampled(
    solver: Sampler, times: Sequence[float], start: torch.Tensor, to_the_end: bool = False, given: int = 0
) -> torch.Tensor:
    """The solver's path over `times` from `start`. `to_the_end` lets it know how many updates are left.

    The first `given` updates are exact: a multistep solver of high order begins with lower orders, whose errors would
    outlast its own.
    """
    x, known, answers = start, [], []
    for index, (time, following) in enumerate(pairwise(times)):
        answer = velocity(x, time) if solver.space == "velocity" else clean_estimate(x, time)
        known, answers = [*known, time][-solver.depth :], [*answers, answer][-solver.depth :]
        if index < given:
            x = exact((time, following), x, 20)
            continue
        keep, weights, _ = solver.weights(known, following, len(times) - 1 - index if to_the_end else MANY)
        x = keep * x + sum(w * a for w, a in zip(weights[::-1], answers[::-1], strict=False))
    return x


def exact(times: Sequence[float], start: torch.Tensor, steps: int = 800) -> torch.Tensor:
    """The path's end by classical Runge-Kutta of order 4, evenly in log-SNR."""
    first, last = (math.log((1 - time) / time) for time in (times[0], times[-1]))
    grid = [1 / (1 + math.exp(first + (last - first) * k / steps)) for k in range(steps + 1)]
    x = start
    for time, following in pairwise(grid):
        h, middle = following - time, (time + following) / 2
        k1 = velocity(x, time)
        k2 = velocity(x + h / 2 * k1, middle)
        k3 = velocity(x + h / 2 * k2, middle)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(x + h * k3, following))
    return x


def even_times(steps: int) -> list[float]:
    """From 0.95 to 0.05, evenly: where no step is infinitely long in log-SNR."""
    return [0.95 - 0.9 * k / steps for k in range(steps + 1)]


def even_log_snr(steps: int) -> list[float]:
    return [1 / (1 + math.exp(-3.0 + 6.0 * k / steps)) for k in range(steps + 1)]
