"""A denoiser's other arguments for latents of a smaller size: positions are made fewer, and what else depends on the
size is not understood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from accel.call import CONDITIONING, LATENTS, TIMESTEP, DenoiserCall
from accel.resolution.latent_grid import LatentGrid, Unpoolable

Size = tuple[int, int, int]

NUMBERS = ("num_frames", "height", "width")
SHAPES = ("img_shapes",)
IDENTIFIERS = ("img_ids",)
TABLES = ("image_rotary_emb",)
OF_PROMPT = ("encoder_", "txt_", "text_", "pooled_")


def smaller_positions(
    arguments: Mapping[str, Any], tokens: Size, size: Size, fewer: Size, strides: Size
) -> dict[str, Any]:
    """Those of the arguments, by name, that say where tokens are, for the tokens of a smaller picture.

    tokens, size: of the tokens and of the pixels of the latents, (T, H, W). fewer: of the tokens that are left.
    Numbers, shapes and identifiers become those of a smaller picture, and of tables every so many rows stay: pipelines
    make them to span the picture, so those of a coarser one take strides, and those of a part of it do not.
    Raises Unpoolable for any other argument that has the latents' size or a row for each token.
    """
    changed: dict[str, Any] = {}
    if all(name in arguments for name in NUMBERS):
        changed |= dict(zip(NUMBERS, fewer, strict=True))
    for name, value in arguments.items():
        if name in (*LATENTS, *TIMESTEP, *CONDITIONING) or name.startswith(OF_PROMPT):
            continue
        if name in SHAPES:
            changed[name] = _shapes(value, tokens, fewer)
        elif name in IDENTIFIERS and isinstance(value, torch.Tensor) and value.shape[-2] == math.prod(tokens):
            changed[name] = _cropped(value, tokens, fewer)
        elif name in TABLES and isinstance(value, (tuple, list)) and all(_is_table(part, tokens) for part in value):
            changed[name] = type(value)(_strided(part, tokens, fewer, strides) for part in value)
        elif _depends(value, tokens, size):
            raise Unpoolable(f"it is not known how {name} goes with a smaller size")
    return changed


def prompts_by_frame(call: DenoiserCall, grid: LatentGrid) -> dict[str, torch.Tensor]:
    """The prompts that have an entry for each frame of each sample (AnimateDiff), by name: (samples, frames, ...)."""
    return {
        name: value.unflatten(0, (call.rows, -1))
        for name, value in call.arguments.items()
        if name in CONDITIONING and len(grid.axes) == 3 and grid.sizes[0] > 1
        if isinstance(value, torch.Tensor) and value.shape[:1] == (call.rows * grid.sizes[0],)
    }


def _shapes(value: Any, tokens: Size, fewer: Size) -> Any:
    if isinstance(value, (tuple, list)) and tuple(value) == tokens:
        return type(value)(fewer)
    return type(value)(_shapes(part, tokens, fewer) for part in value) if isinstance(value, (tuple, list)) else value


def _cropped(value: torch.Tensor, tokens: Size, fewer: Size) -> torch.Tensor:
    """(..., N, 3) -> (..., n, 3): the first of each axis, which are those of a smaller picture."""
    grid: torch.Tensor = value.unflatten(-2, tokens)
    return grid[..., : fewer[0], : fewer[1], : fewer[2], :].flatten(-4, -2)


def _strided(value: torch.Tensor, tokens: Size, fewer: Size, strides: Size) -> torch.Tensor:
    """(N, D) -> (n, D)."""
    grid: torch.Tensor = value.unflatten(0, tokens)[:: strides[0], :: strides[1], :: strides[2]]
    return grid[: fewer[0], : fewer[1], : fewer[2]].flatten(0, 2)


def _is_table(value: Any, tokens: Size) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape[0] == math.prod(tokens)


def _depends(value: Any, tokens: Size, size: Size) -> bool:
    """Whether a (nested) argument has a row for each token, or the latents' rows and columns."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(_depends(part, tokens, size) for part in value)
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return False
    return math.prod(tokens) in value.shape[:3] or tuple(value.shape[-2:]) in (size[1:], tokens[1:])
