"""Previews: a map from latents to pixels that is learnt from one clip, exact where the autoencoder is linear."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accel.app.preview import LatentPreview
from accel.measure.metrics import Clip, psnr


def linear(tokens: torch.Tensor, patch: int, every: int = 1, seed: int = 0) -> Clip:
    """A linear decoder of (F, H, W, C): each vector becomes a patch, and each frame after the first `every` frames."""
    weights = torch.randn(tokens.shape[-1], patch * patch * 3, generator=torch.Generator().manual_seed(seed))
    blocks = (
        (tokens @ weights).sigmoid().unflatten(-1, (patch, patch, 3)) if patch == 1 else tokens @ weights * 0.02 + 0.5
    )
    blocks = blocks.reshape(*tokens.shape[:3], patch, patch, 3)
    frames = blocks.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
    repeats = torch.tensor([1] + [every] * (len(tokens) - 1))
    return np.asarray(frames.repeat_interleave(repeats, 0).clamp(0, 1).numpy(), np.float32)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


LAYOUTS = {
    "video": (lambda t: t.permute(3, 0, 1, 2)[None], 4),
    "video, frames first": (lambda t: t.permute(0, 3, 1, 2)[None], 4),
    "packed video": (lambda t: t.flatten(0, 2)[None], 4),
    "image": (lambda t: t[:1].permute(0, 3, 1, 2), 1),
    "packed image": (lambda t: t[:1].flatten(0, 2)[None], 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_linear_autoencoder_is_drawn_exactly(layout: str) -> None:
    pack, every = LAYOUTS[layout]
    tokens = normal(5, 6, 9, 7)
    latents = pack(tokens)
    clip = linear(tokens if every > 1 else tokens[:1], patch=4, every=every)
    glimpse = LatentPreview()
    assert glimpse.draw(latents) is None
    glimpse.learn(latents, clip)
    picture = glimpse.draw(latents)
    assert picture is not None and picture.shape == (24, 36, 3)
    middle = clip[8] if every > 1 else clip[0]  # the last frame that the third of five latent frames stands for
    assert psnr(picture[None] / 255.0, middle[None]) > 50.0  # rounding to 8 bits is 59 dB


def test_large_patches_and_odd_sizes_are_shrunk() -> None:
    tokens = normal(1, 3, 5, 4)
    clip = np.asarray(np.pad(linear(tokens, patch=32), ((0, 0), (0, 1), (0, 0), (0, 0)), mode="edge"))
    glimpse = LatentPreview()
    glimpse.learn(tokens.permute(0, 3, 1, 2), clip)  # 97 x 160 pixels
    picture = glimpse.draw(tokens.permute(0, 3, 1, 2))
    assert picture is not None and picture.shape == (24, 40, 3)


def test_latents_of_another_shape_are_not_drawn() -> None:
    tokens = normal(1, 4, 4, 4)
    glimpse = LatentPreview()
    glimpse.learn(tokens.permute(0, 3, 1, 2), linear(tokens, patch=2))
    assert glimpse.draw(torch.zeros(1, 4, 8, 8)) is None and not glimpse.knows(torch.zeros(1, 4, 8, 8))
    glimpse.learn(torch.zeros(2, 2), linear(tokens, patch=2))  # of no known layout: what is known stays
    assert glimpse.knows(tokens.permute(0, 3, 1, 2))
