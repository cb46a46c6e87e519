"""How blocks of latents become latents of a smaller picture, and back: means and copies, or as an autoencoder has it.

The means of a picture's latents are not the latents of the smaller picture: within a smaller picture's patch, slopes
are steeper. Of all maps of a block to one latent that keep white noise white, the means are one; the one that agrees
most with what the autoencoder makes of smaller pictures is found from pairs, in closed form (Procrustes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from accel.resolution.latent_grid import LatentGrid


class BlockMeans:
    """Means over blocks, and each value once for every pixel of its block."""

    def down(self, grid: LatentGrid, values: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
        return grid.pooled(values, blocks)

    def up(self, grid: LatentGrid, values: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
        return grid.spread(values, blocks)


@dataclass(frozen=True)
class LinearBlocks(BlockMeans):
    """Blocks of side × side latents, all channels together.

    lower: (C, side² C) with orthogonal rows of length 1 / side, so that noise becomes white noise of 1 / side times the
    size, as in means. upper: (side² C, C), of which `lower` is the inverse: what a block most likely is.
    Blocks are ordered row by row, channels last. Frames are averaged.
    """

    side: int
    lower: torch.Tensor
    upper: torch.Tensor

    def down(self, grid: LatentGrid, values: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
        values = grid.pooled(values, (*blocks[:-2], 1, 1))
        return (in_blocks(values.movedim(grid.channels, -1), self.side) @ self.lower.to(values).mT).movedim(
            -1, grid.channels
        )

    def up(self, grid: LatentGrid, values: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
        found = values.movedim(grid.channels, -1) @ self.upper.to(values).mT
        parts = found.unflatten(-1, (self.side, self.side, -1)).movedim(-3, -4).flatten(-3, -2).flatten(-4, -3)
        return grid.spread(parts.movedim(-1, grid.channels), (*blocks[:-2], 1, 1))

    def numbers(self) -> tuple[float, ...]:
        """Both maps, rounded, for a recipe."""
        return tuple(round(value, 4) for part in (self.lower, self.upper) for value in part.flatten().tolist())


def in_blocks(values: torch.Tensor, side: int) -> torch.Tensor:
    """(..., rows, columns, C) -> (..., rows / side, columns / side, side side C)."""
    found: torch.Tensor = values.unflatten(-2, (-1, side)).unflatten(-4, (-1, side)).movedim(-4, -3).flatten(-3)
    return found


def fitted(blocks: torch.Tensor, small: torch.Tensor, side: int) -> LinearBlocks:
    """From pairs: (N, side² C) blocks of the latents of pictures, and (N, C) those of the smaller pictures there."""
    blocks, small = blocks.double(), small.double()
    lower = _orthogonal(small.mT @ blocks) / side
    upper = torch.linalg.lstsq(blocks @ lower.mT, blocks).solution.mT
    return LinearBlocks(side, lower.float(), upper.float())


def _orthogonal(rows: torch.Tensor) -> torch.Tensor:
    """The orthogonal rows of length 1 that are nearest."""
    left, _, right = torch.linalg.svd(rows, full_matrices=False)
    found: torch.Tensor = left @ right
    return found


def from_numbers(side: int, numbers: Sequence[float]) -> LinearBlocks:
    """The inverse, but for what was rounded: the rows of `lower` are made orthogonal again."""
    channels = math.isqrt(len(numbers) // (2 * side**2))
    both = torch.tensor(numbers, dtype=torch.float64).view(2, -1)
    lower, upper = _orthogonal(both[0].view(channels, -1)) / side, both[1].view(-1, channels)
    return LinearBlocks(side, lower.float(), (upper @ torch.linalg.inv(lower @ upper)).float())
