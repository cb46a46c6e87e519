"""Finds how a pipeline's autoencoder sees smaller pictures, for CoarseToFine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from accel.resolution.block_maps import fitted, in_blocks
from accel.resolution.coarse_to_fine import CoarseToFine


def measure(pipe: Any, pictures: Iterable[Any], method: CoarseToFine) -> CoarseToFine:
    """The method with the maps between latents and those of pictures smaller by its factor, for a recipe.

    pictures: clips (frames, height, width, 3) or pictures (height, width, 3), of uint8 or floats in [0, 1], such as the
    pipeline makes; sides must be multiples of the factor times what the autoencoder takes. A dozen will do: each block
    of latents is a sample. Costs one encoding of each in both sizes.

    Raises ValueError for a pipeline without an autoencoder that encodes, and for too few pictures.
    """
    parts = getattr(pipe, "components", None)  # a property where `pipe` is the class
    vae = parts.get("vae") if isinstance(parts, Mapping) else None
    if vae is None or not hasattr(vae, "encode"):
        raise ValueError(f"{type(pipe).__name__} has no autoencoder that encodes pictures, so none can be measured.")
    side, full, small = method.factor, [], []
    for picture in pictures:
        clip = _frames(picture)
        less = clip.unflatten(2, (-1, side)).unflatten(1, (-1, side)).mean((2, 4))
        full.append(in_blocks(_latents(vae, clip), side).flatten(0, -2))
        small.append(_latents(vae, less).flatten(0, -2))
    found = sum(map(len, full))
    if not found or found < full[0].shape[-1]:
        raise ValueError(f"{found} blocks of latents are too few to measure maps: give more pictures, or larger ones.")
    return replace(method, maps=fitted(torch.cat(full), torch.cat(small), side).numbers())


def _frames(picture: Any) -> torch.Tensor:
    """(frames, height, width, 3) in [0, 1]."""
    values = np.asarray(picture)
    scale = 255.0 if values.dtype == np.uint8 else 1.0
    clip = torch.as_tensor(values.astype(np.float32) / scale)
    return clip[None] if clip.ndim == 3 else clip


@torch.no_grad()
def _latents(vae: Any, clip: torch.Tensor) -> torch.Tensor:
    """(..., rows, columns, C) as a denoiser of this autoencoder sees them."""
    weights = next(vae.parameters())
    values = clip.movedim(-1, 0)[None] if _of_clips(vae) else clip.movedim(-1, 1)
    encoded = vae.encode((values * 2 - 1).to(weights))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    return _normalised(vae, latents.float().movedim(1, -1)).cpu()


def _of_clips(vae: Any) -> bool:
    """Whether it takes clips, (B, C, T, H, W), and not pictures."""
    return any("temporal" in name for name in vae.config)


def _normalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    config = vae.config
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = (torch.tensor(config[name]).to(latents).flatten() for name in ("latents_mean", "latents_std"))
        return (latents - mean) / std
    return (latents - (config.get("shift_factor") or 0.0)) * (config.get("scaling_factor") or 1.0)
