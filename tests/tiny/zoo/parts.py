"""A part of a pipeline, made of the class that the constructor names with the settings of `sizes`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from tests.tiny.image import certain
from tests.tiny.weights import randomise
from tests.tiny.zoo.sizes import SIZES


def make(annotation: Any, settings: Mapping[str, Any]) -> Any:
    """The first part that an annotation of a constructor names and that has a size here, with these settings changed."""
    kind = _class(annotation)
    if issubclass(kind, torch.nn.Module) and not (settings or SIZES.get(kind.__name__)):
        raise KeyError(f"no size is known for {kind.__name__}, and its own is too large for a test")
    made = kind(**(SIZES.get(kind.__name__, {}) | dict(settings)))
    if not isinstance(made, torch.nn.Module):
        return made
    made = randomise(made)
    return certain(made) if kind.__name__ == "AutoencoderKL" else made


def _class(annotation: Any) -> Any:
    for name in re.findall(r"\w+", annotation.__name__ if isinstance(annotation, type) else str(annotation)):
        if name == "KarrasDiffusionSchedulers":
            return diffusers.DDIMScheduler
        found = getattr(diffusers, name, None)
        if isinstance(found, type) and name not in ("MultiControlNetModel",):
            return found
    if isinstance(annotation, type):
        return annotation
    raise TypeError(f"no class of diffusers is named in {annotation}")
