"""Deterministic random weights under which a tiny model reacts to everything that it is given."""

from __future__ import annotations

import re
from math import log, sqrt
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

NEAR_ONE = ("gamma", "norm_q.weight", "norm_k.weight")
TIME_EMBEDDING = re.compile(r"(timestep_embedder|time_embedder|time_embedding|t_embedder)\.(linear_1|mlp\.0)\.weight$")
SLOWEST_UNDAMPED = 300.0


def randomise(model: Module, seed: int = 0, *, damp_time: bool = True) -> Module:
    """Redraws every parameter of `model` in place and returns it in evaluation mode.

    diffusers zero-initialises final layers, gates and ControlNet outputs, so an untouched random model hardly
    reacts to time or prompt and any cache looks perfect on it. Matrices get normals of variance 1 / fan-in,
    which keeps the output of order 1; norm weights stay near 1, biases and modulation tables are small.
    The numbers come from a generator of their own: the global one is neither read nor moved by this function.

    damp_time: weakens the waves of the timestep embedding that are shorter than a few denoising steps, as training
        does. Without it two neighbouring steps have unrelated predictions. Turn it off for a model whose timesteps
        do not run from 0 to 1000.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_shaped(name, noise))
            if damp_time and TIME_EMBEDDING.search(name):
                parameter.mul_(_damping(parameter.shape[1]))
    return model.eval()


def _shaped(name: str, noise: torch.Tensor) -> torch.Tensor:
    if name.endswith(NEAR_ONE) or (noise.ndim == 1 and name.endswith("weight")):
        return 1 + 0.1 * noise
    if noise.ndim < 2 or not name.endswith("weight"):
        return 0.2 * noise
    return noise / sqrt(noise.numel() / noise.shape[0]) if noise.numel() else noise


def _damping(channels: int) -> torch.Tensor:
    """A factor for each channel of a sinusoidal embedding: sines and cosines of 1 down to 1/10000 radian per unit."""
    frequencies = torch.exp(-log(10_000) * torch.arange(channels // 2) / (channels // 2))
    return (1 / (SLOWEST_UNDAMPED * frequencies)).clamp(max=1).repeat(2)
