"""Devices that share one denoiser call decide alike: what each one measured is reduced over all of them.

Under context parallelism every device holds a part of the tokens, so what is measured inside the denoiser differs from
device to device. If one then left the denoiser and another went on, the second would wait for the first for ever
(diffusers' own FirstBlockCache does, 0.42.1). diffusers says that a denoiser is shared by giving it a
`_parallel_config` (`enable_parallelism`, `from_pretrained(parallel_config=...)`); the groups of other libraries are not
known, so take a static schedule there: it measures nothing and all devices follow it alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from accel.call import DenoiserCall


def largest(call: DenoiserCall, distance: float | None) -> float | None:
    """The largest of the distances that the devices sharing this call have measured, the same on all of them.

    Costs one reduction of a number where there are several devices, and nothing else. Whether there is a distance
    follows from shapes and history, which are alike on all devices, so they all come here or none does.
    """
    group = None if distance is None else group_of(call.module)
    if group is None or distance is None:
        return distance
    # What is not a number has no maximum that all devices would agree on.
    value = _like(call, math.inf if math.isnan(distance) else distance)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX, group=group)
    return float(value)


def average(call: DenoiserCall, alignment: torch.Tensor | None) -> torch.Tensor | None:
    """The mean of the alignments, (B,): devices that predicted differently would go on with different latents."""
    group = None if alignment is None else group_of(call.module)
    if group is None or alignment is None:
        return alignment
    value = alignment.clone()
    torch.distributed.all_reduce(value, group=group)
    return value / torch.distributed.get_world_size(group)


def parts_here(denoiser: torch.nn.Module, tokens: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """This device's parts of whole tokens, (B, N, D) -> (B, n, D), as diffusers splits them; none on one device.

    Some denoisers (Wan, QwenImage) split their tokens on the way into the first block, behind what a probe hears there.
    """
    group = group_of(denoiser)
    if group is None:
        return []
    size, rank = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
    return [whole.tensor_split(size, dim=1)[rank] for whole in tokens if whole.ndim == 3]


def group_of(denoiser: torch.nn.Module) -> Any:
    """The process group that shares this denoiser's calls, or None."""
    config = getattr(denoiser, "_parallel_config", None)
    context = getattr(config, "context_parallel_config", None)
    mesh = getattr(context, "_flattened_mesh", None)
    return None if mesh is None else mesh.get_group()


def _like(call: DenoiserCall, number: float) -> torch.Tensor:
    """On the device of the latents, because some backends reduce nowhere else."""
    return torch.tensor(number, dtype=torch.float32, device=call.latents[0].device)
