"""A part of a pipeline, made of the class that the constructor names with the settings of `sizes`."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args

import torch
from diffusers import DDIMScheduler, SchedulerMixin
from diffusers.schedulers import KarrasDiffusionSchedulers

from tests.tiny.image import certain
from tests.tiny.weights import randomise
from tests.tiny.zoo.sizes import SIZES


def make(annotation: Any, settings: Mapping[str, Any]) -> Any:
    """The first part that a constructor's annotation names and that has a size here, with these settings changed."""
    kind = _class(annotation)
    if issubclass(kind, torch.nn.Module) and not (settings or SIZES.get(kind.__name__)):
        raise KeyError(f"no size is known for {kind.__name__}, and its own is too large for a test")
    made = kind(**(SIZES.get(kind.__name__, {}) | dict(settings)))
    if not isinstance(made, torch.nn.Module):
        return made
    made = randomise(made)
    return certain(made) if kind.__name__ == "AutoencoderKL" else made


def _class(annotation: Any) -> Any:
    """Of several classes the first that has a size, else the first; any scheduler is DDIM."""
    kinds = [kind for kind in get_args(annotation) or (annotation,) if isinstance(kind, type) and kind is not NoneType]
    if not kinds:
        raise TypeError(f"no class is named in {annotation}")
    kind = next((kind for kind in kinds if kind.__name__ in SIZES), kinds[0])
    return DDIMScheduler if kind in (KarrasDiffusionSchedulers, SchedulerMixin) else kind
