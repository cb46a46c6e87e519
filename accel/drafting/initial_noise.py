"""The noise that a run begins with: seen where the pipeline makes it, and changed there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from accel.drafting.own_layers import Slot, own_layers

Change = Callable[[torch.Tensor], torch.Tensor]


class InitialNoise:
    """The noise of one run. made: as the pipeline goes on with it, scaled for its scheduler; None before the run.

    change: makes other noise of the pipeline's own; what it returns must have the same shape.
    """

    def __init__(self, change: Change | None = None) -> None:
        self._change = change
        self.made: torch.Tensor | None = None

    def prepare(self, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Around the pipeline's `prepare_latents`, which returns the noise alone or first of several things."""
        found = inner(*args, **kwargs)
        noise, further = (found[0], found[1:]) if isinstance(found, tuple) else (found, None)
        if not isinstance(noise, torch.Tensor):
            return found
        if self._change is not None:
            noise = self._change(noise).to(noise)
        self.made = noise.clone()
        return noise if further is None else (noise, *further)


def heard(pipe: Any, noise: Slot[InitialNoise]) -> AbstractContextManager[None]:
    """Around the pipeline's own making of noise, if it has a method for it, for the duration of the block."""

    def prepare(inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return noise.value.prepare(inner, *args, **kwargs)

    return own_layers([(pipe, "prepare_latents", prepare)] if makes_noise(pipe) else [])


def makes_noise(pipe: Any) -> bool:
    """Whether the noise can be changed: most pipelines make it in a method called `prepare_latents`."""
    return callable(getattr(type(pipe), "prepare_latents", None))


def check_noise(pipe: Any) -> None:
    """Raises ValueError for a pipeline whose noise cannot be changed."""
    if not makes_noise(pipe):
        raise ValueError(
            f"The initial noise of {type(pipe).__name__} cannot be changed, because it has no method prepare_latents."
        )
