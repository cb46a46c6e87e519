"""A grid of tokens in blocks of equal size, whatever its lengths: what is left over on an axis is blocks of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch

from accel.attention.layout import TokenLayout

Sizes = tuple[int, int, int]


class Region(NamedTuple):
    """A part of the grid of which every axis is whole blocks."""

    start: Sizes
    counts: Sizes  # of blocks
    block: Sizes

    @property
    def size(self) -> int:
        """Tokens of a block."""
        frames, rows, columns = self.block
        return frames * rows * columns

    def of(self, grid: torch.Tensor) -> torch.Tensor:
        """The view of this part of (..., frames, height, width, D)."""
        for axis, (start, count, block) in enumerate(zip(*self, strict=True)):
            grid = grid.narrow(axis - 4, start, count * block)
        return grid

    def blocks(self, grid: torch.Tensor) -> torch.Tensor:
        """(B, H, frames, height, width, D) -> (B, H, blocks, size, D): a copy."""
        (a, b, c), (x, y, z) = self.counts, self.block
        part = self.of(grid).unflatten(4, (c, z)).unflatten(3, (b, y)).unflatten(2, (a, x))
        found: torch.Tensor = part.permute(0, 1, 2, 4, 6, 3, 5, 7, 8).flatten(5, 7).flatten(2, 4)
        return found

    def put(self, blocks: torch.Tensor, grid: torch.Tensor) -> None:
        """The inverse: writes (B, H, blocks, size, D) to where they belong."""
        part = blocks.unflatten(3, self.block).unflatten(2, self.counts).permute(0, 1, 2, 5, 3, 6, 4, 7, 8)
        self.of(grid).copy_(part.flatten(6, 7).flatten(4, 5).flatten(2, 3))

    def means(self, grid: torch.Tensor) -> torch.Tensor:
        """(B, H, blocks, D) the mean of each block."""
        part = self.of(grid)
        for axis, block in zip((4, 3, 2), reversed(self.block), strict=True):
            part = part.unflatten(axis, (-1, block)).mean(axis + 1) if block > 1 else part
        return part.flatten(2, 4)


def regions(layout: TokenLayout, block: Sizes) -> Iterator[Region]:
    """Parts of the grid that cover it, each in blocks of this size or, at the ends of the axes, of what is left."""
    lengths = (layout.frames, layout.height, layout.width)
    axes = [_stretches(length, size) for length, size in zip(lengths, block, strict=True)]
    for parts in itertools.product(*axes):
        yield Region(*zip(*parts, strict=True))


def _stretches(length: int, block: int) -> list[tuple[int, int, int]]:
    """(start, blocks, size) of the whole blocks, and of the rest."""
    block = min(block, length)
    whole, rest = divmod(length, block)
    return [(0, whole, block)] + ([(length - rest, 1, rest)] if rest else [])
