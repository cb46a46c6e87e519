"""Takes one half of a batched denoiser call, and puts the answer of a whole batch together again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from accel import families
from accel.calls import CONDITIONING, LATENTS, Arguments, Call, noise_part, tensors


def listed(call: Call) -> bool:
    """Whether the batch is a list of samples (Z-Image) and not the first axis of a tensor."""
    return isinstance(Arguments.pick(call.arguments, LATENTS), (list, tuple))


def rows_of(call: Call) -> int:
    """The number of samples in the batch, of both halves."""
    return len(call.latents) if listed(call) else call.latents[0].shape[0] if call.latents else 0


def half_call(call: Call, last: bool) -> Call:
    """The call for the last (or first) half of the batch alone, as a stream of its own.

    Every tensor whose first axis is that of the batch is halved, wherever it is among the arguments, and so is
    conditioning with several rows for each sample (AnimateDiff folds frames into it). Halves are views: diffusers'
    TextKVCache knows embeddings by their address.
    """
    cut = _Cut(rows_of(call), last, listed(call))
    arguments = {
        name: value if name in families.WITHOUT_BATCH else cut(value, folded=name in CONDITIONING)
        for name, value in call.arguments.items()
    }
    latents = tensors(Arguments.pick(arguments, LATENTS))
    stream = f"{call.stream}, conditional half"
    return replace(call, stream=stream, args=(), kwargs=arguments, arguments=arguments, latents=latents)


def half_output(call: Call, output: Any, last: bool) -> Any:
    """The last (or first) half of what the denoiser answered to the whole batch: views."""
    return _Cut(rows_of(call), last, listed(call))(output)


def joined(call: Call, first: Any, second: Any) -> Any:
    """The answer to the whole batch from those to its halves, in their structure."""
    if isinstance(first, torch.Tensor):
        return torch.cat([first, second]) if first.ndim and 2 * first.shape[0] == rows_of(call) else first
    if isinstance(first, Mapping):
        return type(first)(**{key: joined(call, first[key], second[key]) for key in first})
    if isinstance(first, list) and listed(call):
        return [*first, *second]
    if isinstance(first, (list, tuple)):
        return type(first)([joined(call, one, other) for one, other in zip(first, second, strict=True)])
    return first


def same_input(call: Call, outputs: list[torch.Tensor] | None) -> bool:
    """Whether both halves of the batch hold the same noisy latents. Costs a host sync.

    outputs: what the denoiser answers to such a call, if that is known: conditioning channels that are appended to the
    latents may differ between the halves (Stable Video Diffusion) and are left out by it.
    """
    rows = rows_of(call)
    if rows < 2 or rows % 2:
        return False
    if listed(call):
        return _equal(call.latents[: rows // 2], call.latents[rows // 2 :])
    latents = call.latents[0]
    if torch.equal(latents[: rows // 2], latents[rows // 2 :]):
        return True
    noisy = noise_part(latents, outputs[0]) if outputs else None
    return noisy is not None and torch.equal(noisy[: rows // 2], noisy[rows // 2 :])


def prompts(call: Call) -> Any:
    """The conditioning as the denoiser was given it."""
    return Arguments.pick(call.arguments, CONDITIONING)


def other_prompts(call: Call) -> bool:
    """Whether the halves of the batch are given different prompts. Costs a host sync.

    Perturbed attention also doubles the batch, but for one and the same prompt.
    """
    words = tensors(prompts(call))
    if not words:
        return False
    if listed(call):
        middle = len(words) // 2
        return not _equal(words[:middle], words[middle:])
    middle = words[0].shape[0] // 2
    return not torch.equal(words[0][:middle], words[0][middle:])


class _Cut:
    """Takes the half of whatever has `rows` samples."""

    def __init__(self, rows: int, last: bool, lists: bool) -> None:
        self.rows, self.last, self.lists = rows, last, lists

    def __call__(self, value: Any, folded: bool = False) -> Any:
        if isinstance(value, torch.Tensor):
            size = value.shape[0] if value.ndim else 0
            return self._half(value) if size and (size == self.rows or (folded and size % self.rows == 0)) else value
        if isinstance(value, Mapping):
            return type(value)(**{key: self(item) for key, item in value.items()})
        if isinstance(value, list) and self.lists and len(value) == self.rows:
            return self._half(value)
        if isinstance(value, (list, tuple)):
            return type(value)([self(item, folded) for item in value])
        return value

    def _half(self, value: Any) -> Any:
        middle = len(value) // 2
        return value[middle:] if self.last else value[:middle]


def _equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
