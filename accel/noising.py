"""How a scheduler's samples are noised and what it takes its model to predict, by what it makes of a few numbers."""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import torch

from accel.parametrization import Prediction, Samples, prediction_in, shares
from accel.timetable import Timetable
from accel.update import Deep, Unknown, config_of, copy_scheduler


def samples_of(table: Timetable) -> Samples | None:
    """How samples are scaled, by what the scheduler makes of a clean sample and noise; None if it does not say."""
    if config_of(table.scheduler).get("invert_sigmas"):  # its own noising counts the other way round
        return "flow"
    scheduler = copy_scheduler(table.scheduler)  # some keep a count of calls
    noised = getattr(scheduler, "add_noise", None) or getattr(scheduler, "scale_noise", None)
    middle = len(table.timesteps) // 2
    if noised is None or not table.timesteps:
        return "flow" if table.flow and hasattr(table.scheduler, "sigmas") else None
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    timestep = torch.as_tensor(table.scheduler.timesteps)[middle : middle + 1]
    try:
        parts = zip((one, zero), (zero, one), strict=True)
        signal, noise = (float(_noised(noised, part, timestep, other)) for part, other in parts)
    except Exception:  # whatever somebody's scheduler raises
        return None
    known: dict[Samples, float] = {
        "flow": abs(signal + noise - 1.0),
        "preserving": abs(signal**2 + noise**2 - 1.0),
        "exploding": abs(signal - 1.0) + (noise < 1e-3),
    }
    nearest = min(known, key=lambda name: known[name])
    return nearest if known[nearest] < 0.02 else None


def _noised(noised: Any, clean: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> Any:
    """`add_noise(sample, noise, timesteps)` and `scale_noise(sample, timestep, noise)` order their arguments each in a
    way of its own."""
    names = {"original_samples": clean, "sample": clean, "noise": noise, "timesteps": timestep, "timestep": timestep}
    return noised(**{name: value for name, value in names.items() if name in inspect.signature(noised).parameters})


def prediction_of(table: Timetable, samples: Samples | None) -> Prediction:
    """Read off the first update of a run that begins in the middle, which is of order 1 under every solver: from where
    it leads, what the output must have been; else what the scheduler declares."""
    declared: Prediction = "flow" if table.flow and hasattr(table.scheduler, "sigmas") else "unknown"
    said = config_of(table.scheduler).get("prediction_type")
    if not table.flow and table.told and said in ("epsilon", "v_prediction", "sample"):
        declared = said
    falling = [position for position, (now, then) in enumerate(pairwise(table.whole)) if then < now]
    if samples is None or not falling:
        return declared
    middle = falling[len(falling) // 2]
    try:
        keep, share = table.updates(first=middle).influence[0, :2]
    except Deep as deep:
        keep, share = deep.influence[0, :2]
    except Unknown:
        return declared
    if not share:
        return declared
    before, after = (shares(table.whole[position], samples) for position in (middle, middle + 1))
    clean, noise = ((after[part] - keep * before[part]) / share for part in (0, 1))
    found = prediction_in(clean, noise, table.whole[middle], table.flow)
    return declared if found == "unknown" else found
