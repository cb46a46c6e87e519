"""Orders in which the video tokens of a sequence are cut into blocks: by frame, by pixel, or in compact tiles."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch

from accel.attention.layout import TokenLayout
from accel.attention.methods.sliding_tile import tile_plan


@lru_cache(maxsize=32)
def frame_major(layout: TokenLayout, size: int) -> torch.Tensor:
    """(blocks, size) the tokens frame by frame, as they are numbered; -1 behind the last."""
    return _cut(torch.arange(layout.video), size)


@lru_cache(maxsize=32)
def token_major(layout: TokenLayout, size: int) -> torch.Tensor:
    """(blocks, size) the tokens pixel by pixel, each pixel through all frames, -1 behind the last.

    Pixels follow a Hilbert curve over the frame, so what is near in this order is near in the picture on both axes.
    """
    pixels = hilbert(layout.height, layout.width)
    return _cut((pixels[:, None] + torch.arange(layout.frames) * layout.frame).flatten(), size)


@lru_cache(maxsize=32)
def compact_tiles(layout: TokenLayout, size: int) -> torch.Tensor:
    """(blocks, tokens) tiles of frames x height x width of about `size` tokens, as cubic as they come.

    Tiles that divide the grid are preferred, because blocks of equal size need no mask.
    """
    grid = (layout.frames, layout.height, layout.width)

    def distance(tile: tuple[int, int, int]) -> float:
        uneven = any(length % side for length, side in zip(grid, tile, strict=True))
        return uneven + abs(math.log2(math.prod(tile) / size)) + math.log2(max(tile) / min(tile)) / 3

    frames, rows, columns = (range(1, min(length, size) + 1) for length in grid)
    every = itertools.product(frames, rows, columns)
    tile = min((sides for sides in every if math.prod(sides) <= 2 * size), key=distance)
    return tile_plan(layout, tile, (1, 1, 1)).order


def hilbert(height: int, width: int) -> torch.Tensor:
    """(height * width,) pixel numbers, row by row, along the Hilbert curve of the smallest square of a power of two.

    Each pixel follows a neighbour wherever the square is full; a rectangle leaves gaps at its edge.
    """
    side = 1 << (max(height, width) - 1).bit_length()
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    place, half = torch.zeros_like(row), side >> 1
    while half:
        down, right = (row & half) > 0, (column & half) > 0
        place += half * half * ((3 * right.long()) ^ down.long())
        row, column = _turned(row, column, down, right, half)
        half >>= 1
    return place.argsort()


def _turned(
    row: torch.Tensor, column: torch.Tensor, down: torch.Tensor, right: torch.Tensor, half: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels within their quadrant, in the frame of reference in which the curve has its first shape."""
    row, column = row & (half - 1), column & (half - 1)
    mirrored = ~down & right
    flipped_row = torch.where(mirrored, half - 1 - row, row)
    flipped_column = torch.where(mirrored, half - 1 - column, column)
    return torch.where(down, flipped_row, flipped_column), torch.where(down, flipped_column, flipped_row)


def _cut(tokens: torch.Tensor, size: int) -> torch.Tensor:
    blocks = -(-len(tokens) // size)
    return torch.cat([tokens, tokens.new_full((blocks * size - len(tokens),), -1)]).view(blocks, size)
