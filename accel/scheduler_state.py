"""What tells whether two schedulers are equal: their class and all that they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from accel.patch import without_layers


def state_of(scheduler: Any) -> object | None:
    """Equal for schedulers that answer alike; None where that cannot be told, as with functions put over methods. Our
    own layers over them count for nothing.
    """
    kind = type(scheduler)
    try:
        return kind, kind.step, kind.set_timesteps, _frozen(without_layers(vars(scheduler)))
    except (TypeError, AttributeError):
        return None


def _frozen(value: Any) -> object:
    """The same for equal values only. Raises TypeError for what has no value to compare."""
    if value is None or isinstance(value, (str, int, float, torch.dtype, torch.device)):
        return type(value), value
    if isinstance(value, torch.Tensor):
        return value.dtype, value.device, _frozen(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return tuple((key, _frozen(one)) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    raise TypeError(f"a {type(value).__name__} cannot be compared")
