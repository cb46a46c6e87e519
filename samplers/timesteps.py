"""Tells a scheduler which noise levels to use, through its own `set_timesteps`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from accel.parametrization import Samples
from accel.samplers.sigmas import Grid, Sigmas, unshift_sigma
from accel.timestep_input import TimestepInput
from accel.timetable import Timetable
from accel.update import config_of


def set_sigmas(
    scheduler: Any,
    set_timesteps: Callable[..., Any],
    arguments: Mapping[str, Any],
    wanted: Sigmas,
    told: TimestepInput,
    samples: Samples,
    call: Mapping[str, Any],
) -> str | None:
    """Replaces the noise levels of a run whose `set_timesteps(**arguments)` has just returned.

    Returns None, or one clause that says why not; then the scheduler has its own levels as before.
    """
    *own, end = Timetable(scheduler).whole
    shift = shift_of(scheduler, arguments.get("mu")) if told == "shifted" else 1.0
    try:
        levels = wanted.levels(Grid(tuple(own), samples == "flow", shift, call, tuple(training_sigmas(scheduler))))
    except ValueError as error:
        return str(error)
    given, rest = _scheduler_arguments(scheduler, told, levels, end, shift), dict(arguments)
    if given is None:
        return f"{len(levels)} steps of {wanted} fall on the same training timesteps"
    if told != "shifted":
        rest["num_inference_steps"] = None
    set_timesteps(**(rest | given))
    if _was_accepted(Timetable(scheduler).whole[:-1], _stretch(scheduler, levels), told):
        return None
    set_timesteps(**arguments)
    return f"{type(scheduler).__name__} made other noise levels of those of {wanted}"


def shift_of(scheduler: Any, mu: float | None) -> float:
    """By how much the scheduler shifts the sigmas that it is given."""
    if config_of(scheduler).get("use_dynamic_shifting") and mu is not None:
        return math.exp(mu) if config_of(scheduler).get("time_shift_type") == "exponential" else float(mu)
    config = config_of(scheduler)
    return float(scheduler.shift if hasattr(scheduler, "shift") else config.get("flow_shift", config.get("shift", 1.0)))


def _scheduler_arguments(
    scheduler: Any, told: TimestepInput, levels: Sequence[float], end: float, shift: float
) -> dict[str, Any] | None:
    if told == "shifted":
        return {"sigmas": np.array([unshift_sigma(level, shift) for level in levels])}  # UniPC calculates with them
    if told == "with end":
        return {"sigmas": [*levels, end]}
    timesteps = training_timesteps(scheduler, levels)
    return {"timesteps": timesteps} if len(set(timesteps)) == len(timesteps) else None


def training_timesteps(scheduler: Any, levels: Sequence[float]) -> list[int]:
    """The training timesteps whose noise-to-signal ratios are nearest to `levels`."""
    known = torch.tensor(training_sigmas(scheduler), dtype=torch.float64).log()
    asked = torch.tensor(levels, dtype=torch.float64).log()
    nearest: list[int] = (asked[:, None] - known[None, :]).abs().argmin(1).tolist()
    return nearest


def training_sigmas(scheduler: Any) -> list[float]:
    """Noise over signal at every training timestep, rising; none for flows, which have no such table."""
    alphas = getattr(scheduler, "alphas_cumprod", None)
    config = config_of(scheduler)
    if alphas is None or config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        return []
    alphas = alphas.double().clamp_min(1e-12)
    sigmas: list[float] = ((1.0 - alphas) / alphas).sqrt().tolist()
    return sigmas


def _stretch(scheduler: Any, levels: list[float]) -> list[float]:
    """What a scheduler with a terminal noise level (LTX) makes of them: stretched so that the last is that level."""
    terminal = config_of(scheduler).get("shift_terminal")
    if not terminal:
        return levels
    factor = (1.0 - terminal) / (1.0 - levels[-1])
    return [1.0 - (1.0 - level) * factor for level in levels]


def _was_accepted(found: Sequence[float], wanted: Sequence[float], told: TimestepInput) -> bool:
    # Training timesteps are whole numbers; flows are moved off pure noise by a millionth or so.
    tolerance = 0.5 if told == "timesteps" else 1e-3
    return len(found) == len(wanted) and all(
        math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-4) for one, other in zip(found, wanted, strict=True)
    )
