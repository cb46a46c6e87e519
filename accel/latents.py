"""Where a denoiser's latents keep time, height and width."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping
from itertools import permutations
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from accel.call import DenoiserCall, noise_part


def on_grid(call: DenoiserCall, config: Mapping[str, Any]) -> tuple[torch.Tensor, tuple[int, ...]] | None:
    """The first latents with separate space-time axes, and which axes those are; None where the layout is not known.

    (B, C, H, W) -> axes (2, 3); (B, C, T, H, W) -> (2, 3, 4); (B, T, C, H, W) -> (1, 3, 4). Packed tokens (B, N, C) are
    unpacked to (B, T, H, W, C), axes (1, 2, 3), where the call says how many rows and columns there are.
    """
    if not call.latents:
        return None
    latents = call.latents[0]
    if latents.ndim == 4:
        # A list of latents (Z-Image) holds samples without a batch axis: (C, T, H, W).
        return (latents, (2, 3)) if len(call.latents) == 1 else (latents, (1, 2, 3))
    if latents.ndim == 5:
        channels_second = latents.shape[1] == config.get("in_channels") or latents.shape[2] != config.get("in_channels")
        return latents, (2, 3, 4) if channels_second else (1, 3, 4)
    grid = packed_tokens(call.arguments) if latents.ndim == 3 else None
    if grid is None or math.prod(grid) > latents.shape[1]:
        return None
    # The tokens of reference pictures (Kontext, editing) follow those of the latents.
    return latents[:, : math.prod(grid)].unflatten(1, grid), (1, 2, 3)


def packed_tokens(arguments: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(T, H, W) in tokens, from the arguments that tell it to models that take packed tokens."""
    if all(isinstance(arguments.get(name), int) for name in ("num_frames", "height", "width")):  # LTX
        return arguments["num_frames"], arguments["height"], arguments["width"]
    shapes = arguments.get("img_shapes")  # QwenImage: one (T, H, W) per sample, or a list of them with references
    if shapes:
        first = shapes[0][0] if isinstance(shapes[0], list) else shapes[0]
        return int(first[0]), int(first[1]), int(first[2])
    identifiers = arguments.get("img_ids")  # Flux: (N, 3) or (B, N, 3) rows of (reference, row, column)
    return _grid_of_rows(identifiers) if isinstance(identifiers, torch.Tensor) else None


# What was read off tensors that pipelines make once and pass with every call.
_known_grids: MutableMapping[torch.Tensor, tuple[int, int, int] | None] = WeakTensorKeyDictionary()


def _grid_of_rows(identifiers: torch.Tensor) -> tuple[int, int, int] | None:
    """The grid of the first picture among identifiers of tokens; a host sync, once for each such tensor."""
    if identifiers not in _known_grids:
        rows = identifiers if identifiers.ndim == 2 else identifiers[0]
        reference, *places = rows.long().T.tolist()
        first = [place for place in zip(reference, *places, strict=True) if place[0] == reference[0]]
        grid = (1, max(place[1] for place in first) + 1, max(place[2] for place in first) + 1)
        _known_grids[identifiers] = grid if math.prod(grid) == len(first) else None
    return _known_grids[identifiers]


def repeats(call: DenoiserCall, sizes: tuple[int, ...] | None, parts: int = 2) -> bool:
    """Whether the batch holds the same noisy latents this many times, one after the other. Costs a host sync.

    sizes: those of one sample of the noisy latents, if they are known: conditioning that is appended to them (channels
    in Stable Video Diffusion, a picture in DreamLite) may differ between the parts and is left out by it.
    """
    if call.rows < parts or call.rows % parts:
        return False
    if call.is_list:
        first = call.latents[: call.rows // parts] * parts
        return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(call.latents, first, strict=True))
    latents = call.latents[0]
    noisy = None if sizes is None else noise_part(latents, latents.new_empty(1).expand(latents.shape[0], *sizes))
    return any(known is not None and _is_repeated(known, parts) for known in (latents, noisy))


def arranged_like(latents: torch.Tensor, sample: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What a pipeline does to tensors of the latents' shape before it gives them to its scheduler, seen from what has
    become of the latents: another order of the axes, or the last entries of some axes; None where that is neither.
    The scale of the sample may be another. Costs host syncs.
    """
    known, wanted = latents.double().cpu(), sample.flatten().double().cpu()

    def same(found: torch.Tensor) -> bool:
        return float(torch.nn.functional.cosine_similarity(found.flatten(), wanted, dim=0)) > 0.999

    if latents.numel() == sample.numel() > 0:
        for order in permutations(range(latents.ndim)):
            if same(known.permute(order)):
                return lambda other: other.permute(order).reshape(sample.shape)
    elif latents.ndim == sample.ndim and all(a >= b > 0 for a, b in zip(latents.shape, sample.shape, strict=True)):
        last = tuple(slice(a - b, a) for a, b in zip(latents.shape, sample.shape, strict=True))
        if same(known[last]):
            return lambda other: other[last]
    return None


def _is_repeated(latents: torch.Tensor, parts: int) -> bool:
    first, *others = latents.chunk(parts)
    return all(torch.equal(first, other) for other in others)
