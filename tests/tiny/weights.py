"""Deterministic random weights under which a tiny model reacts to everything that it is given."""

from __future__ import annotations

from math import sqrt
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

NEAR_ONE = ("gamma", "norm_q.weight", "norm_k.weight")


def randomise(model: Module, seed: int = 0) -> Module:
    """Redraws every parameter of `model` in place and returns it in evaluation mode.

    diffusers zero-initialises final layers, gates and ControlNet outputs, so an untouched random model hardly
    reacts to time or prompt and any cache looks perfect on it. Matrices get normals of variance 1 / fan-in,
    which keeps the output of order 1; norm weights stay near 1, biases and modulation tables are small.
    The numbers come from a generator of their own: the global one is neither read nor moved by this function.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_shaped(name, noise))
    return model.eval()


def _shaped(name: str, noise: torch.Tensor) -> torch.Tensor:
    if name.endswith(NEAR_ONE) or (noise.ndim == 1 and name.endswith("weight")):
        return 1 + 0.1 * noise
    if noise.ndim < 2 or not name.endswith("weight"):
        return 0.2 * noise
    return noise / sqrt(noise[0].numel())
