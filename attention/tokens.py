"""Where the tokens of a denoiser call stand: from the shape of its latents, the patch size and the family's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from accel import conventions
from accel.anatomy import DenoiserAnatomy
from accel.attention.layout import TokenLayout
from accel.call import DenoiserCall
from accel.latents import on_grid


class Tokens:
    """The token layouts of one denoiser call, read when the first attention asks."""

    def __init__(self, call: DenoiserCall, denoiser: DenoiserAnatomy) -> None:
        self._call, self._denoiser = call, denoiser
        self._grids: list[tuple[int, int, int]] | None = None

    def layout(self, tokens: int) -> TokenLayout | None:
        """The layout of a self-attention over so many tokens; None if it cannot be determined for certain."""
        if self._grids is None:
            self._grids = grids(self._call, self._denoiser)
        for grid in self._grids:
            if tokens == math.prod(grid):
                return TokenLayout(*grid)
        prompt = self._denoiser.family.prompt_tokens
        if prompt is None or not self._grids or tokens < math.prod(self._grids[0]):
            return None
        grid = self._grids[0]
        return TokenLayout(*grid, text=tokens - math.prod(grid), text_first=prompt == "first")


def grids(call: DenoiserCall, denoiser: DenoiserAnatomy) -> list[tuple[int, int, int]]:
    """(frames, height, width) in tokens as the self-attentions of this call see them: one, or one for each resolution
    of a U-Net, the finest first; none where the layout is not known.
    """
    among = any(call.arguments.get(name) is not None for name in conventions.PICTURES_AMONG_TOKENS)
    known = on_grid(call, denoiser.config)
    if known is None or among or denoiser.family.own_token_order:
        return []
    latents, axes = known
    frames, height, width = (1, *(latents.shape[axis] for axis in axes))[-3:]
    if call.latents[0].ndim == 3:  # packed: tokens already; those of reference pictures would follow
        return [(frames, height, width)] if call.latents[0].shape[1] == frames * height * width else []
    deep, high, wide = patches(denoiser.config)
    frames = 1 if denoiser.family.frames_apart else frames // deep
    finest = (frames, height // high, width // wide)
    levels = len(denoiser.config.get("block_out_channels") or (0,))
    return [(frames, *(-(-size // 2**level) for size in finest[1:])) for level in range(levels)]


def patches(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """How many latents make a token along (frames, height, width), from the names that the configurations use."""
    size = config.get("patch_size") or (config.get("all_patch_size") or (1,))[0]
    if not isinstance(size, int):
        deep, high, wide = (1, 1, *size)[-3:]
        return deep, high, wide
    return config.get("patch_size_t") or (config.get("all_f_patch_size") or (1,))[0], size, size
