"""Sliding Tile Attention: every query sees the tiles of space and time around its own."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

from accel.attention.density import video_density
from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.static import StaticAttention
from accel.method import setting

TILE = (6, 8, 8)  # frames, rows, columns: the paper's, 384 tokens
TILES = 4  # of every axis at least: with fewer, a window is either everything or next to nothing

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class SlidingTile(StaticAttention):
    """Local attention in units of tiles, so that a tile of queries sees whole tiles of keys and nothing is masked.

    Source: Fast Video Generation with Sliding Tile Attention (arXiv 2502.04507). A tile sees the window of tiles around
    it, shifted inwards at the ends of the grid, so that all tiles see equally many. Where the tile does not divide the
    grid the last one of an axis is smaller (the paper pads). An even window, which the paper has not, reaches one tile
    further towards the end. Text sees and is seen by everything.
    tile: (frames, height, width) in tokens; None is (6, 8, 8), smaller on axes that it would cut into fewer than 4.
    window: (frames, height, width) in tiles, at least 1 each; what reaches over the grid covers it. None takes the
    window with the density nearest to `density`, from below if there is one, and the most even over the axes.
    Published: (3, 3, 5), (3, 1, 10), (1, 5, 7) on 6 x 6 x 10 tiles, chosen for each head by a search that is not
    included. Memory: the numbers of all tokens once. Not for motion across the whole picture between two frames.
    """

    density: float = setting(0.3, 0.01, 1.0, "share of the pairs to compute, if no window is given", dial=True)
    tile: tuple[int, int, int] | None = None
    window: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("tile", "in tokens", self.tile)
        _check("window", "in tiles", self.window)

    def layout_plan(self, layout: TokenLayout) -> KeyPlan:
        grid = (layout.frames, layout.height, layout.width)
        tile = self.tile or _tile(grid)
        window = self.window or _window(grid, tile, max(video_density(layout, self.density), 1e-6))
        return tile_plan(layout, tile, window)


def tile_plan(layout: TokenLayout, tile: Sizes, window: Sizes) -> KeyPlan:
    """Tiles in rows along the width as blocks, each with the blocks of its window."""
    grid = (layout.frames, layout.height, layout.width)
    tiles = [math.ceil(length / size) for length, size in zip(grid, tile, strict=True)]
    seen = [_seen(count, size) for count, size in zip(tiles, window, strict=True)]
    _, rows, columns = tiles
    number = (seen[0] * rows)[:, None, None, :, None, None] + seen[1][None, :, None, None, :, None]
    blocks = number * columns + seen[2][None, None, :, None, None, :]
    return KeyPlan(layout, _order(grid, tile, tiles), blocks.reshape(math.prod(tiles), -1))


def _order(grid: Sizes, tile: Sizes, tiles: list[int]) -> torch.Tensor:
    """(blocks, size) the tokens of every tile; the places beyond the ends of the grid are moved behind the others."""
    places = [torch.arange(count * size).view(count, size) for count, size in zip(tiles, tile, strict=True)]
    frame, row, column = (
        place.view(
            *(place.shape[0] if axis == i else 1 for i in range(3)),
            *(place.shape[1] if axis == i else 1 for i in range(3)),
        )
        for axis, place in enumerate(places)
    )
    inside = (frame < grid[0]) & (row < grid[1]) & (column < grid[2])
    tokens = torch.where(inside, (frame * grid[1] + row) * grid[2] + column, -1).reshape(math.prod(tiles), -1)
    return tokens.gather(1, (tokens < 0).to(torch.uint8).argsort(dim=1, stable=True))


def _seen(tiles: int, window: int) -> torch.Tensor:
    """(tiles, window) which tiles of one axis each of them sees."""
    window = min(window, tiles)
    first = (torch.arange(tiles) - (window - 1) // 2).clamp(0, tiles - window)
    return first[:, None] + torch.arange(window)


def _tile(grid: Sizes) -> Sizes:
    """The paper's tile, smaller where the grid is; as equal as the lengths allow."""
    sizes = []
    for length, size in zip(grid, TILE, strict=True):
        count = max(math.ceil(length / size), min(TILES, length))
        sizes.append(math.ceil(length / count))
    return sizes[0], sizes[1], sizes[2]


def _window(grid: Sizes, tile: Sizes, density: float) -> Sizes:
    """Of the windows within the density, the one nearest to it and to an equal share of every axis."""
    shares = []
    for length, size in zip(grid, tile, strict=True):
        count = math.ceil(length / size)
        shares.append([_share(length, size, window) for window in range(1, count + 1)])

    def distance(window: Sizes) -> tuple[bool, float]:
        parts = [math.log(share[size - 1]) for share, size in zip(shares, window, strict=True)]
        wanted = math.log(density)
        return sum(parts) > wanted + 1e-9, (sum(parts) - wanted) ** 2 + sum((part - wanted / 3) ** 2 for part in parts)

    frames, rows, columns = (range(1, len(share) + 1) for share in shares)
    return min(itertools.product(frames, rows, columns), key=distance)


def _share(length: int, tile: int, window: int) -> float:
    """The share of the pairs along one axis that a window of so many tiles computes."""
    seen = _seen(math.ceil(length / tile), window)
    sizes = torch.full((len(seen),), tile)
    sizes[-1] = length - tile * (len(seen) - 1)
    return float((sizes * sizes[seen].sum(1)).sum()) / length**2


def _check(name: str, unit: str, value: object) -> None:
    right = isinstance(value, tuple) and len(value) == 3 and all(type(size) is int and size >= 1 for size in value)
    if value is not None and not right:
        raise ValueError(
            f"SlidingTile.{name} must be (frames, height, width) {unit}, whole numbers from 1, or None, not {value!r}."
        )
