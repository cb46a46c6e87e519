"""Smaller grids of latents, and the maps between latents of both sizes that keep white noise white."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch

from accel.resolution.block_maps import BlockMeans
from accel.resolution.latent_grid import LatentGrid


class Smaller(Protocol):
    """A grid of fewer latents. Its noise is 1/√n of the full size's, with n latents of that for each of its own."""

    @property
    def full(self) -> LatentGrid: ...

    @property
    def grid(self) -> LatentGrid: ...

    @property
    def strides(self) -> tuple[int, ...]:
        """The distance of its positions along each axis, in those of the full size."""
        ...

    def down(self, values: torch.Tensor) -> torch.Tensor: ...

    def up(self, values: torch.Tensor) -> torch.Tensor:
        """What the full size most likely is; `down` of it gives the values back."""
        ...

    def pooled(self, values: torch.Tensor) -> torch.Tensor:
        """`down` for what has other channels, such as conditions."""
        ...

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """`up` for what has other channels, such as variances: nothing is mixed."""
        ...


@dataclass(frozen=True)
class Blocks:
    """One latent for each block of so many along each axis, which must divide the full size."""

    full: LatentGrid
    strides: tuple[int, ...]
    maps: BlockMeans

    @property
    def grid(self) -> LatentGrid:
        return self.full.smaller(self.strides)

    def down(self, values: torch.Tensor) -> torch.Tensor:
        return self.maps.down(self.full, values, self.strides)

    def up(self, values: torch.Tensor) -> torch.Tensor:
        return self.maps.up(self.full, values, self.strides)

    def pooled(self, values: torch.Tensor) -> torch.Tensor:
        return self.full.pooled(values, self.strides)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        return self.full.spread(values, self.strides)


@dataclass(frozen=True)
class FewerFrames:
    """A clip of so many latent frames that shows the same motion: the lowest frequencies of the long one's in time.

    Source: spectral pooling (arXiv 1506.03767), with cosines, whose ends are not joined. Any length, and motion stays
    steady: spread over blocks, each frame would stand still for a block's length and then leap. Positions are those of
    a clip that is so short.
    """

    full: LatentGrid
    frames: int

    @property
    def grid(self) -> LatentGrid:
        return self.full.resized((self.frames, *self.full.sizes[1:]))

    @property
    def strides(self) -> tuple[int, ...]:
        return 1, 1, 1

    def down(self, values: torch.Tensor) -> torch.Tensor:
        return self._along_time(values, self._low(values))

    def up(self, values: torch.Tensor) -> torch.Tensor:
        return self._along_time(values, self._low(values).T * (self.full.sizes[0] / self.frames))

    def pooled(self, values: torch.Tensor) -> torch.Tensor:
        return self.down(values)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        length = self.full.sizes[0]
        nearest = torch.arange(length, device=values.device) * self.frames // length
        return values.index_select(self.full.axes[0], nearest)

    def _low(self, values: torch.Tensor) -> torch.Tensor:
        return low_frequencies(self.full.sizes[0], self.frames, values.dtype, values.device)

    def _along_time(self, values: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        axis = self.full.axes[0]
        found: torch.Tensor = values.movedim(axis, -1) @ matrix.mT
        return found.movedim(-1, axis)


@lru_cache(maxsize=16)  # kept on the device: a copy to it would make the host wait in each step
@torch.inference_mode(False)
def low_frequencies(
    length: int, fewer: int, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> torch.Tensor:
    """(fewer, length): the cosine transform's lowest frequencies as samples of a shorter axis.

    Rows are orthogonal and of length √(fewer / length); what is constant stays the same.
    """
    few, many = map(_cosines, (fewer, length))
    return (math.sqrt(fewer / length) * few.T @ many[:fewer]).to(device, dtype)


def _cosines(length: int) -> torch.Tensor:
    """(length, length): the orthonormal cosine transform, a frequency in each row."""
    places = torch.arange(length, dtype=torch.float64)
    waves = torch.cos(math.pi / length * (places + 0.5) * places[:, None])
    return torch.nn.functional.normalize(waves)
