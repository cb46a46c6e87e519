"""Latents as pixels in time, rows and columns, whatever their layout: means over blocks of them, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from accel.call import DenoiserCall
from accel.conventions import INPUT_CHANNELS, OUTPUT_CHANNELS
from accel.latents import on_grid


class Unpoolable(Exception):
    """Why a call cannot be made smaller: one clause."""


@dataclass(frozen=True)
class LatentGrid:
    """Where latents, and outputs like them, keep their pixels.

    axes: of time (if there is one), rows and columns, once tokens stand on their grid. sizes: how many there are.
    noisy: the channels that are noise and signal; conditions follow them.
    tokens: the grid of packed tokens, (T, H, W), each of which holds `packed` × `packed` pixels.
    """

    axes: tuple[int, ...]
    channels: int  # the axis
    sizes: tuple[int, ...]
    noisy: int
    tokens: tuple[int, int, int] | None = None
    packed: int = 1

    def open(self, values: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, C p p) become (B, T, H p, W p, C); everything else stays as it is."""
        if self.tokens is None:
            return values
        size = self.packed
        # (B, T, H, W, C, p, p)
        grid: torch.Tensor = values.unflatten(1, self.tokens).unflatten(-1, (-1, size, size))
        return grid.permute(0, 1, 2, 5, 3, 6, 4).flatten(4, 5).flatten(2, 3)

    def close(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `open`, also of fewer pixels."""
        if self.tokens is None:
            return values
        size = self.packed
        # (B, T, H, p, W, p, C)
        grid: torch.Tensor = values.unflatten(3, (-1, size)).unflatten(2, (-1, size))
        return grid.permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(1, 3)

    def smaller(self, blocks: tuple[int, ...]) -> LatentGrid:
        """The grid of the means over blocks."""
        return self.resized(tuple(size // block for size, block in zip(self.sizes, blocks, strict=True)))

    def resized(self, sizes: tuple[int, ...]) -> LatentGrid:
        """The same grid with so many pixels along each axis."""
        tokens = (sizes[0], sizes[1] // self.packed, sizes[2] // self.packed) if self.tokens is not None else None
        return replace(self, sizes=sizes, tokens=tokens)

    def pooled(self, values: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
        """Means over blocks of so many pixels along each axis."""
        for axis, block in zip(self.axes, blocks, strict=True):
            values = values.unflatten(axis, (-1, block)).mean(axis + 1) if block > 1 else values
        return values

    def spread(self, values: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
        """Each value once for every pixel of its block: of all upsamplings the one whose means over blocks are the
        values themselves."""
        for axis, block in zip(self.axes, blocks, strict=True):
            values = values.repeat_interleave(block, axis) if block > 1 else values
        return values


def grid_of(call: DenoiserCall, config: Mapping[str, Any], packed: int) -> LatentGrid:
    """Where this call's latents keep their pixels. Raises Unpoolable where that is not known."""
    found = on_grid(call, config)
    if found is None or call.is_list or len(call.latents) != 1:
        raise Unpoolable("how its latents are arranged is not known")
    (opened, axes), latents = found, call.latents[0]
    channels = next(axis for axis in range(1, opened.ndim) if axis not in axes)
    noisy = config.get(OUTPUT_CHANNELS) or config.get(INPUT_CHANNELS) or opened.shape[channels]
    noisy = min(int(noisy), opened.shape[channels])
    sizes = tuple(opened.shape[axis] for axis in axes)
    if latents.ndim != 3:
        return LatentGrid(axes, channels, sizes, noisy)
    tokens = (sizes[0], sizes[1], sizes[2])
    if math.prod(tokens) != latents.shape[1]:
        raise Unpoolable("tokens of other pictures follow those of the latents")
    own = latents.shape[2] // packed**2
    if noisy not in (own, own * packed**2) or latents.shape[2] % packed**2:  # counted before packing, or after it
        raise Unpoolable("packed tokens hold conditions beside the latents")
    return LatentGrid(axes, 4, (tokens[0], tokens[1] * packed, tokens[2] * packed), own, tokens, packed)
