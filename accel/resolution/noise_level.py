"""How a denoiser is told a noise level that its scheduler's timetable does not hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from accel.resolution.latent_grid import Unpoolable
from accel.timetable import Timetable

# What pipelines make of a scheduler's timestep for their model: itself, its thousandth, 1 minus that.
SCALES = ((0.0, 1.0), (0.0, 1e-3), (1.0, -1e-3))


def scale_of_timesteps(told: Any, timestep: float) -> tuple[float, float]:
    """What the pipeline makes of its scheduler's timestep T: a + b T. One host sync.

    Raises Unpoolable where it is none of the known ones or where two of them give the same number.
    """
    if isinstance(told, torch.Tensor) and told.ndim > 1:
        raise Unpoolable("each token has a timestep of its own")
    value = float(torch.as_tensor(told).float().max())
    fits = [(a, b) for a, b in SCALES if math.isclose(a + b * timestep, value, rel_tol=4e-3, abs_tol=1e-6)]
    if len(fits) != 1:
        raise Unpoolable("how the denoiser is told the noise level is not known")
    return fits[0]


def timestep_at(table: Timetable, position: int, sigma: float) -> float:
    """The scheduler's timestep of a noise level, as its run's own go with theirs: continued in the noise level for
    flows, and else in its logarithm, between training timesteps where the scheduler counts in them.
    """
    levels, timesteps = np.asarray(table.sigmas), np.asarray(table.timesteps)
    if not table.flow:
        levels, sigma = np.log(np.maximum(levels, 1e-6)), math.log(max(sigma, 1e-6))
        alphas = getattr(table.scheduler, "alphas_cumprod", None)
        if alphas is not None:
            ladder = torch.as_tensor(alphas).double().clamp(1e-12, 1.0 - 1e-12)
            known = (((1.0 - ladder) / ladder).sqrt().log()).numpy()
            if abs(float(np.interp(levels[position], known, np.arange(len(known)))) - timesteps[position]) < 1.0:
                return float(np.interp(sigma, known, np.arange(len(known))))
    order = np.argsort(levels)
    if levels[order[0]] == levels[order[-1]]:
        raise Unpoolable("the run has a single noise level")
    if not levels[order[0]] <= sigma <= levels[order[-1]]:
        raise Unpoolable("the noise level of pooled latents is outside of the run's")
    return float(np.interp(sigma, levels[order], timesteps[order]))


def told_instead(told: Any, value: float) -> Any:
    """The denoiser's timestep argument with another value, of the same kind; whole numbers become fractions."""
    if not isinstance(told, torch.Tensor):
        return value
    return torch.full_like(told, value, dtype=told.dtype if told.is_floating_point() else torch.float32)
