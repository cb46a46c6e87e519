"""Splits a batched denoiser call into halves, and joins the outputs into that of the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from accel import conventions
from accel.call import CONDITIONING, LATENTS, Arguments, DenoiserCall, DenoiserResult, Proceed, noise_part, tensors


def split_half(call: DenoiserCall, last: bool, name: str) -> DenoiserCall:
    """The call for the last (or first) half of the batch alone, as a stream of this name.

    Whatever has the batch among its sizes is halved, wherever it is among the arguments: tensors with one row for each
    sample, and those with several (AnimateDiff folds frames into the batch of its embeddings and of a ControlNet's
    residuals, an IP-Adapter's pictures are). Halves are views: diffusers' TextKVCache knows embeddings by address.
    """
    cut = _HalfCutter(call, last)
    arguments = {name: value if name in conventions.POSITIONS else cut(value) for name, value in call.arguments.items()}
    latents = tensors(Arguments.pick(arguments, LATENTS))
    stream = f"{call.stream}, {name} half"
    return replace(call, stream=stream, args=(), kwargs=arguments, arguments=arguments, latents=latents)


class BothHalves:
    """Evaluates both halves of a batch in one launch when the first of them is asked for.

    What stands below sees the batch as it came, and not as the one that decides for this step: the half does.
    """

    def __init__(self, call: DenoiserCall) -> None:
        self._call = replace(call, leader=False)
        self._outcome: DenoiserResult | None = None

    def half_result(self, last: bool, half: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        """The result for the last (or first) half of the batch."""
        if self._outcome is None:
            self._outcome = proceed(self._call)
        call, output = self._call, self._outcome.output
        half.raw_output = half_output(call, call.raw_output, last)
        plain = output is call.raw_output  # then the half's output must be seen to be what was evaluated
        return self._outcome._replace(output=half.raw_output if plain else half_output(call, output, last))


def half_output(call: DenoiserCall, output: Any, last: bool) -> Any:
    """The last (or first) half of the denoiser's output for the whole batch: views."""
    return _HalfCutter(call, last)(output)


def join_halves(call: DenoiserCall, first: Any, second: Any) -> Any:
    """The output for the whole batch from those for its halves, in their structure."""
    if isinstance(first, torch.Tensor):
        return torch.cat([first, second]) if first.ndim and 2 * first.shape[0] == call.rows else first
    if isinstance(first, Mapping):
        return type(first)(**{key: join_halves(call, first[key], second[key]) for key in first})
    if isinstance(first, list) and call.is_list:
        return [*first, *second]
    if isinstance(first, (list, tuple)):
        return type(first)([join_halves(call, one, other) for one, other in zip(first, second, strict=True)])
    return first


def same_input(call: DenoiserCall, outputs: list[torch.Tensor] | None) -> bool:
    """Whether both halves of the batch hold the same noisy latents. Costs a host sync.

    outputs: what the denoiser returns for such a call, if that is known: conditioning channels that are appended to the
    latents may differ between the halves (Stable Video Diffusion) and are left out by it.
    """
    rows = call.rows
    if rows < 2 or rows % 2:
        return False
    if call.is_list:
        return _equal(call.latents[: rows // 2], call.latents[rows // 2 :])
    latents = call.latents[0]
    if torch.equal(latents[: rows // 2], latents[rows // 2 :]):
        return True
    noisy = noise_part(latents, outputs[0]) if outputs else None
    return noisy is not None and torch.equal(noisy[: rows // 2], noisy[rows // 2 :])


def prompts(call: DenoiserCall) -> Any:
    """The conditioning as the denoiser was given it."""
    return Arguments.pick(call.arguments, CONDITIONING)


def other_prompts(call: DenoiserCall) -> bool:
    """Whether the halves of the batch are given different prompts. Costs a host sync.

    Perturbed attention also doubles the batch, but for one and the same prompt.
    """
    words = tensors(prompts(call))
    if not words:
        return False
    if call.is_list:
        middle = len(words) // 2
        return not _equal(words[:middle], words[middle:])
    middle = words[0].shape[0] // 2
    return not torch.equal(words[0][:middle], words[0][middle:])


class KnownPairs:
    """What is known about the batched calls of one denoiser in this run."""

    def __init__(self) -> None:
        self.outputs: list[torch.Tensor] | None = None  # of the last whole batch
        self._prompts: Any = None
        self._differ = self.alike = False
        self._step, self._shapes, self._several = -1, [torch.Size()], False

    def are_pairs(self, call: DenoiserCall) -> bool:
        """Whether this may be a pair: the one call of its step, an even batch, with two kinds of prompts."""
        rows, shapes = call.rows, [tensor.shape for tensor in call.latents]
        if not call.leader:
            # Tiles would be guided differently, one from another. A third pass has fewer rows and changes nothing.
            self._several |= call.context.step == self._step and shapes == self._shapes
            return False
        self._step, self._shapes = call.context.step, shapes
        if self._several or rows < 2 or rows % 2:
            return False
        given = prompts(call)
        if given is not self._prompts:
            self._prompts, self._differ = given, other_prompts(call)
            self.alike = not self._differ and given is not None
        return self._differ


class _HalfCutter:
    """Takes the half of whatever has the samples of a call along its first axis."""

    def __init__(self, call: DenoiserCall, last: bool) -> None:
        self.rows, self.last, self.lists = call.rows, last, call.is_list

    def __call__(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._half(value) if self._carries(value) else value
        if isinstance(value, Mapping):
            return type(value)(**{key: self(item) for key, item in value.items()})
        if isinstance(value, list) and self.lists and len(value) == self.rows:
            return self._half(value)
        if isinstance(value, (list, tuple)):
            return type(value)([self(item) for item in value])
        return value

    def _carries(self, value: torch.Tensor) -> bool:
        """Whether the batch is along the first axis: alone, or times frames or pictures. With two axes only, several
        rows for each sample could as well be the tokens of a table.
        """
        size = value.shape[0] if value.ndim else 0
        return size > 0 and (size == self.rows or (value.ndim > 2 and size % self.rows == 0))

    def _half(self, value: Any) -> Any:
        middle = len(value) // 2
        return value[middle:] if self.last else value[:middle]


def _equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
