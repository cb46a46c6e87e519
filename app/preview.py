"""Pictures of latents at no cost: a linear map from latents to pixels, learnt from what the model decodes itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from accel.measure.media import Pixels
from accel.measure.metrics import Clip

_MOST_PATCH = 8  # pixels per latent along each side of the picture
_SAMPLES = 4096
_CLIPPED = 0.1  # with more of its pixels at black or white a clip teaches less than what is known
_RIDGE = 1e-4


@dataclass(frozen=True)
class _Grid:
    """How latents lie in time and space."""

    frames: int
    height: int
    width: int
    channels_last: bool  # packed tokens (B, N, C); else (B, C, ...)
    frames_first: bool = False  # (B, F, C, H, W)

    def of(self, latents: torch.Tensor) -> torch.Tensor:
        """The first sample as (F, H, W, C) in float32 on the CPU."""
        first = latents[0].detach().float().cpu()
        if self.channels_last:
            return first.reshape(self.frames, self.height, self.width, -1)
        if first.ndim == 3:
            return first.permute(1, 2, 0)[None]
        return first.permute(0, 2, 3, 1) if self.frames_first else first.permute(1, 2, 3, 0)


class LatentPreview:
    """Learns from decoded clips what the latents of a model look like, and then draws others of the same kind.

    Each latent vector is mapped to a patch of pixels by least squares over the positions of the clips so far. That is
    exact for a linear autoencoder and a blurred picture for any other; it knows nothing of the model, and costs a
    product of two small matrices. It begins anew with latents of another shape.
    """

    def __init__(self) -> None:
        self._shape: tuple[object, ...] = ()
        self._rough = False
        self._sums: dict[_Grid, _LeastSquares] = {}
        self._grid: _Grid | None = None
        self._weights: torch.Tensor | None = None

    def knows(self, latents: torch.Tensor) -> bool:
        return self._weights is not None and self._shape[:1] == (latents.shape,)

    def learn(self, latents: torch.Tensor, clip: Clip, *, rough: bool = False) -> None:
        """latents: as the pipeline decoded them. clip: what became of them, (frames, height, width, 3), black 0 and
        white 1, best not clipped there. rough: of a run of few steps, which counts until there is a better one.

        Where several layouts of the latents fit the clip, the one that explains it best is taken; where none does,
        nothing is learnt.
        """
        grids = list(_grids(latents.shape, clip.shape))
        if not grids or (self.knows(latents) and np.mean((clip == 0.0) | (clip == 1.0)) > _CLIPPED):
            return
        if self._shape != (latents.shape, clip.shape) or (self._rough and not rough):
            self._shape, self._sums, self._rough = (latents.shape, clip.shape), {}, rough
        if rough and not self._rough:
            return
        best = math.inf
        for grid in grids:
            sums = self._sums.setdefault(grid, _LeastSquares(_patch_of(grid, clip)))
            sums.add(grid.of(latents), clip)
            weights, error = sums.solve()
            if error < best:
                best, self._weights, self._grid = error, weights, grid

    def draw(self, latents: torch.Tensor) -> Pixels | None:
        """The middle of the clip, uint8 (height, width, 3); None for latents of a shape that is not known."""
        if self._weights is None or self._grid is None or not self.knows(latents):
            return None
        patch = self._sums[self._grid].patch
        tokens = self._grid.of(latents)[self._grid.frames // 2]
        patches = (_with_one(tokens) @ self._weights).unflatten(-1, (*patch, 3))  # (h, w, p, q, 3)
        picture = patches.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        return np.asarray((picture.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy())


def _grids(latents: torch.Size, clip: tuple[int, ...]) -> Iterator[_Grid]:
    """The layouts that latents of this shape may have for a clip of this shape."""
    frames, height, width, _ = clip
    if len(latents) == 4 and frames == 1:
        yield _Grid(1, latents[2], latents[3], False)
    elif len(latents) == 5:
        for axis in (2, 1):
            if _divides(latents[axis], frames):
                yield _Grid(latents[axis], latents[3], latents[4], False, frames_first=axis == 1)
    elif len(latents) == 3:
        for count in range(1, frames + 1):
            if latents[1] % count == 0 and _divides(count, frames):
                rows = round(math.sqrt(latents[1] // count * height / width))
                if rows and latents[1] // count % rows == 0:
                    yield _Grid(count, rows, latents[1] // count // rows, True)


def _divides(latent_frames: int, frames: int) -> bool:
    """Whether so many latent frames can stand for the frames: one for each, or one for each group after the first."""
    if latent_frames in (1, frames):
        return True
    return latent_frames < frames and (frames - 1) % (latent_frames - 1) == 0


class _LeastSquares:
    """What least squares needs of pairs of a latent vector (C + 1, the last is one) and a patch of p x q pixels."""

    def __init__(self, patch: tuple[int, int]) -> None:
        self.patch = patch
        self._products = torch.zeros((), dtype=torch.float64)  # (C + 1, C + 1)
        self._crossed = torch.zeros((), dtype=torch.float64)  # (C + 1, p q 3)
        self._squares = 0.0

    def add(self, tokens: torch.Tensor, clip: Clip) -> None:
        """tokens: (F, H, W, C)."""
        known = _with_one(tokens).flatten(0, 2).double()
        targets = _patches(clip, tokens.shape, self.patch)
        step = max(1, len(known) // _SAMPLES)
        known, targets = known[::step], targets[::step]
        self._products = self._products + known.T @ known
        self._crossed = self._crossed + known.T @ targets
        self._squares += float(targets.square().sum())

    def solve(self) -> tuple[torch.Tensor, float]:
        """The weights (C + 1, p q 3), and the squared error that they leave as a share of the pixels' squares."""
        products, crossed = self._products, self._crossed
        damping = _RIDGE * products.diagonal().mean().clamp_min(1e-12) * torch.eye(len(products), dtype=torch.float64)
        weights = torch.linalg.solve(products + damping, crossed)
        left = self._squares - float((2.0 * crossed - products @ weights).mul(weights).sum())
        return weights.float(), left / max(self._squares, 1e-12)


def _patch_of(grid: _Grid, clip: Clip) -> tuple[int, int]:
    """Pixels of the picture for each latent, down and across."""
    down, across = clip.shape[1] // grid.height, clip.shape[2] // grid.width
    return max(1, min(_MOST_PATCH, down)), max(1, min(_MOST_PATCH, across))


def _patches(clip: Clip, tokens: torch.Size, patch: tuple[int, int]) -> torch.Tensor:
    """The pixels (F h w, p q 3) that latents (F, h, w, C) stand for."""
    frames, rows, columns, _ = tokens
    # The last frame of each group: the first latent frame stands for the first frame alone.
    chosen = [round(index * (len(clip) - 1) / max(1, frames - 1)) for index in range(frames)]
    pixels = torch.from_numpy(np.ascontiguousarray(clip[chosen])).permute(0, 3, 1, 2)
    size = (rows * patch[0], columns * patch[1])
    if pixels.shape[2:] != size:
        pixels = torch.nn.functional.interpolate(pixels, size, mode="area")
    blocks = pixels.unflatten(3, (columns, patch[1])).unflatten(2, (rows, patch[0]))  # (F, 3, h, p, w, q)
    rows_of_pixels: torch.Tensor = blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(0, 2).double()
    return rows_of_pixels


def _with_one(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([tokens, torch.ones_like(tokens[..., :1])], dim=-1)
