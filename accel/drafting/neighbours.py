"""Search in the neighbourhood of a noise: the second algorithm of `accel.best_of`.

The best of a few seeds is the pivot. Others are drawn around it, each is looked at as early, and a better one becomes
the pivot: what was good about a noise is kept where a new seed begins from nothing. Zero-order search of Ma et al.
2025 ("Inference-time scaling for diffusion models beyond scaling denoising steps"), here on a sphere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Moves:
    """How a noise came from that of its seed: each number seeds a step away from the noise before, of this `closeness`,
    the cosine between both. As `Change` of an `InitialNoise` it makes the same noise every time.
    """

    numbers: tuple[int, ...] = ()
    closeness: float = 0.9

    def __call__(self, noise: torch.Tensor) -> torch.Tensor:
        for number in self.numbers:
            noise = neighbour(noise, self.closeness, number)
        return noise

    def on(self, number: int) -> Moves:
        return Moves((*self.numbers, number), self.closeness)


def neighbour(noise: torch.Tensor, closeness: float, seed: int) -> torch.Tensor:
    """z' = |z| (c u + sqrt(1 - c^2) w): u is the direction of z, w a random one across it, c the closeness. Of the
    same length as z, in its dtype and on its device; drawn on the CPU in float32.
    """
    flat = noise.detach().float().cpu().flatten()
    length = flat.norm()
    along = flat / length.clamp(min=1e-12)
    across = torch.randn(flat.shape, generator=torch.Generator("cpu").manual_seed(seed))
    across = across - (across @ along) * along
    across = across / across.norm().clamp(min=1e-12)
    moved: torch.Tensor = length * (closeness * along + math.sqrt(1.0 - closeness * closeness) * across)
    return moved.view(noise.shape).to(noise)


def check_closeness(closeness: float) -> None:
    if not (isinstance(closeness, (int, float)) and 0.0 < closeness < 1.0):
        raise ValueError(
            f"near is the cosine between a noise and its neighbours, above 0 and below 1, not {closeness!r}."
        )
