"""How a scheduler can be told the noise levels of a run: tried on copies of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from accel.timetable import Timetable
from accel.update import config_of, copy_scheduler

# How `set_timesteps` is told: "shifted" takes sigmas and shifts them, "with end" takes them as they are with the end of
# the run, "timesteps" takes training timesteps.
TimestepInput = Literal["shifted", "with end", "timesteps"]


def timestep_input(table: Timetable) -> TimestepInput | None:
    """The way of telling in which one noise level that is moved moves, and no other does."""
    middle = len(table.timesteps) // 2
    if not 0 < middle < len(table.timesteps) - 1:
        return None
    end = table.whole[-1]
    ways: dict[TimestepInput, tuple[str, list[float], list[float]]] = {
        "with end": ("sigmas", table.sigmas, [end]),
        "shifted": ("sigmas", table.sigmas, []),
        "timesteps": ("timesteps", [int(timestep) for timestep in table.timesteps], []),
    }
    if table.flow or not hasattr(table.scheduler, "alphas_cumprod"):
        del ways["timesteps"]  # which training timestep has which level is not known
    for told, (name, values, rest) in ways.items():
        moved = [*values[:middle], (values[middle - 1] + values[middle]) / 2, *values[middle + 1 :]]
        moved = [int(value) for value in moved] if told == "timesteps" else moved
        plain, other = (_heard(table.scheduler, told, name, [*some, *rest]) for some in (values, moved))
        if len(plain) == len(other) == len(values):
            apart = [not math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in zip(plain, other, strict=True)]
            if apart[middle] and sum(apart) == 1:
                return told
    return None


def _heard(scheduler: Any, told: TimestepInput, name: str, values: Sequence[float]) -> list[float]:
    """The noise levels that a copy of the scheduler makes of these; none where it does not take them."""
    other, count = copy_scheduler(scheduler), len(values) if told == "shifted" else None
    known = inspect.signature(other.set_timesteps).parameters
    if name not in known:
        return []
    extra = {"mu": 1.0} if "mu" in known and config_of(other).get("use_dynamic_shifting") else {}
    given = np.array(values) if told == "shifted" else list(values)
    try:
        other.set_timesteps(**{"num_inference_steps": count, name: given, **extra})
        return Timetable(other).sigmas
    except Exception:  # whatever somebody's scheduler raises
        return []
