"""Splits a batched denoiser call into its passes, and joins their outputs into that of the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import torch

from accel import conventions
from accel.call import LATENTS, Arguments, DenoiserCall, DenoiserResult, Proceed, tensors
from accel.deferred import DeferredTensor
from accel.latents import repeats

# Batches of more passes than this are not looked for.
MOST_PARTS = 3


def split_part(call: DenoiserCall, index: int, parts: int, name: str) -> DenoiserCall:
    """The call for one of the equal parts of the batch alone, as a stream of this name.

    Whatever has the batch among its sizes is split, wherever it is among the arguments: tensors with one row for each
    sample, and those with several (AnimateDiff folds frames into the batch of its embeddings and of a ControlNet's
    residuals, an IP-Adapter's pictures are). Parts are views: diffusers' TextKVCache knows embeddings by address.
    """
    arguments = _PartCutter(call, index, parts)(call.arguments)
    latents = tensors(Arguments.pick(arguments, LATENTS))
    stream = f"{call.stream}, {name}"
    return replace(call, stream=stream, args=(), kwargs=arguments, arguments=arguments, latents=latents)


class AllParts:
    """Evaluates all parts of a batch in one launch when the first of them is asked for.

    What stands below sees the batch as it came, and not as the one that decides for this step: the part does.
    """

    def __init__(self, call: DenoiserCall, parts: int) -> None:
        self._call, self._parts = replace(call, leader=False), parts
        self._outcome: DenoiserResult | None = None

    def part_result(self, index: int, part: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        """The result for this part of the batch."""
        if self._outcome is None:
            self._outcome = proceed(self._call)
        call, output = self._call, self._outcome.output
        part.raw_output = part_output(call, call.raw_output, index, self._parts)
        plain = output is call.raw_output  # then the part's output must be seen to be what was evaluated
        return self._outcome._replace(
            output=part.raw_output if plain else part_output(call, output, index, self._parts)
        )


def part_output(call: DenoiserCall, output: Any, index: int, parts: int) -> Any:
    """One of the parts of the denoiser's output for the whole batch: views."""
    return _PartCutter(call, index, parts)(output)


def join_parts(call: DenoiserCall, outputs: Sequence[Any]) -> Any:
    """The output for the whole batch from those for its parts, in their order and structure."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(outputs)) if first.ndim and len(outputs) * first.shape[0] == call.rows else first
    if isinstance(first, Mapping):
        return _like(first, {key: join_parts(call, [output[key] for output in outputs]) for key in first})
    if isinstance(first, list) and call.is_list:
        return [one for output in outputs for one in output]
    if isinstance(first, (list, tuple)):
        return type(first)([join_parts(call, pieces) for pieces in zip(*outputs, strict=True)])
    return first


class RepeatedBatches:
    """What is known about the batched calls of one denoiser in this run."""

    def __init__(self) -> None:
        self.sizes: tuple[int, ...] | None = None  # of one sample of the output
        self.several = False  # whether a step has several such calls
        self._step = -1
        self._layout: tuple[object, ...] = ()
        self._repeated: set[object] = set()

    def may_be_passes(self, call: DenoiserCall) -> bool:
        """Whether this may be several passes of the same latents: the one call of its step, which can be split."""
        layout = call.layout
        if not call.leader:
            # Tiles would be guided differently, one from another. A third pass has fewer rows and changes nothing.
            self.several |= call.context.step == self._step and layout == self._layout
            return False
        self._step, self._layout = call.context.step, layout
        return call.rows > 1 and not self.several and any(not call.rows % parts for parts in range(2, MOST_PARTS + 1))

    def repeats(self, call: DenoiserCall, sizes: tuple[int, ...] | None, parts: int) -> bool:
        """Whether the batch holds the same noisy latents this many times. It costs a host sync once: the code that has
        laid the first such batch out lays out all of the run, and guidance that ends changes their size.
        """
        kind = (call.layout, call.guided, sizes, parts)
        if kind not in self._repeated and repeats(call, sizes, parts):
            self._repeated.add(kind)
        return kind in self._repeated


class _PartCutter:
    """Takes one part of whatever has the samples of a call along its first axis."""

    def __init__(self, call: DenoiserCall, index: int, parts: int) -> None:
        self.rows, self.lists, self.index, self.parts = call.rows, call.is_list, index, parts

    def __call__(self, value: Any) -> Any:
        if isinstance(value, DeferredTensor) and self._carries(value):
            return value.part(self.index, self.parts, self)
        if isinstance(value, torch.Tensor):
            return self._part(value) if self._carries(value) else value
        if isinstance(value, Mapping):
            return _like(value, {key: self._named(key, item) for key, item in value.items()})
        if isinstance(value, list) and self.lists and len(value) == self.rows:
            return self._part(value)
        if isinstance(value, (list, tuple)):
            return type(value)([self(item) for item in value])
        return value

    def _carries(self, value: torch.Tensor) -> bool:
        """Whether the batch is along the first axis: alone, or times frames or pictures. With two axes only, several
        rows for each sample could as well be the tokens of a table.
        """
        size = value.shape[0] if value.ndim else 0
        return size > 0 and (size == self.rows or (value.ndim > 2 and size % self.rows == 0))

    def _named(self, name: Any, value: Any) -> Any:
        if name in conventions.POSITIONS:
            return value
        if name in conventions.BATCH_SECOND and isinstance(value, torch.Tensor):
            return self._part(value.transpose(0, 1)).transpose(0, 1)
        return self(value)

    def _part(self, value: Any) -> Any:
        size = len(value) // self.parts
        return value[self.index * size : (self.index + 1) * size]


def _like(template: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """A mapping of the template's kind: diffusers' BaseOutput is made from keywords, others are plain."""
    made: Any = type(template)
    return made(**values) if is_dataclass(template) else values
