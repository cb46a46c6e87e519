"""Seeded stand-ins for what a user gives to a pipeline: prompts already embedded, and pictures."""

from __future__ import annotations

import torch


def embeddings(prompt: int, batch: int, *shape: int) -> torch.Tensor:
    """Prompt embeddings `(batch, *shape)`; sample i is prompt `prompt + i` alone."""
    samples = [torch.randn(shape, generator=_generator(prompt + i)) for i in range(batch)]
    return torch.stack(samples)


def mask(batch: int, tokens: int, padding: int = 0) -> torch.Tensor:
    """Attention mask `(batch, tokens)` of integers whose last `padding` tokens are off."""
    ones = torch.ones(batch, tokens, dtype=torch.long)
    ones[:, tokens - padding :] = 0
    return ones


def picture(seed: int, height: int, width: int, batch: int = 1) -> torch.Tensor:
    """Smooth random pictures `(batch, 3, height, width)` in [0, 1]; sample i is picture `seed + i` alone."""
    coarse = [torch.rand((1, 3, 4, 4), generator=_generator(seed + i)) for i in range(batch)]
    return torch.nn.functional.interpolate(torch.cat(coarse), size=(height, width), mode="bilinear")


def generators(seed: int, batch: int) -> torch.Generator | list[torch.Generator]:
    """A CPU generator, or a list of them: sample i draws what a single run with `seed + i` would draw."""
    return _generator(seed) if batch == 1 else [_generator(seed + i) for i in range(batch)]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
