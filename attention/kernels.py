"""Which code computes a planned attention on this machine: tested before it is trusted, and replaced where it fails."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import torch

from accel.attention.dense import all_text, dense
from accel.attention.flex import Flex
from accel.attention.gather import Gather
from accel.attention.kept_keys import kept_keys
from accel.attention.plan import KeyPlan
from accel.attention.planner import AttentionInputs, HeadPlan
from accel.attention.selftest import random_fault, sampled_fault
from accel.attention.verdicts import DENSE, Verdicts, ranked, stopwatch
from accel.attention.xformers import XFormers


class Kernel(Protocol):
    """Computes the planned attention of some heads. Exact: the same as attention under the plan's mask."""

    @property
    def name(self) -> str: ...

    def __hash__(self) -> int: ...

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float, text: torch.Tensor
    ) -> torch.Tensor:
        """(B, h, L, D) of queries, keys and values (B, h, L, D), text rows included, which see everything.

        text: (T,) the places in the sequence of the text keys that are attended; the other text keys are padding.
        """
        ...


class NoKernel(RuntimeError):
    """Not even the portable kernel gives what the plan asks for on this device."""


class ChosenKernel:
    """The first of several kernels that is right on this device, data type and head width.

    Each is tested when it is first needed: on random activations, and on a few rows of the first real ones. What fails
    is not used again, and the notes say why. The verdicts are those of one session: what fails on the activations of
    one model may be right on another's.
    kernels: None takes those of the device. verdicts: say in which order; else it is a fixed one.
    """

    def __init__(self, kernels: Sequence[Kernel] | None = None, verdicts: Verdicts | None = None) -> None:
        self.kernels, self.verdicts = kernels, verdicts or Verdicts()
        self.name = "auto"  # of the kernel that was used last
        self.notes: list[str] = []
        self._verdicts: dict[tuple[object, ...], bool] = {}

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float, text: torch.Tensor
    ) -> torch.Tensor:
        watch = stopwatch()
        if watch is not None and not watch.knows(q, plan.density):
            right = {
                kernel.name: partial(kernel, q, k, v, plan, scale, text)
                for kernel in self._all(q.device)
                if self._test(kernel, q, k, v, plan, scale, text) is not None
            }
            watch.time(q, plan.density, right | {DENSE: partial(dense, q, k, v, plan.layout, scale, text)})
        for kernel in self._in_order(q, plan):
            key = (kernel.name, q.device, q.dtype, q.shape[-1], plan.order.dim(), plan.key_blocks.dim())
            if key not in self._verdicts:
                output = self._test(kernel, q, k, v, plan, scale, text)
                self._verdicts[key] = output is not None
                if output is not None:
                    self.name = kernel.name
                    return output
            elif self._verdicts[key]:
                self.name = kernel.name
                return kernel(q, k, v, plan, scale, text)
        raise NoKernel

    def _all(self, device: torch.device) -> Sequence[Kernel]:
        return available_kernels(device) if self.kernels is None else self.kernels

    def _in_order(self, q: torch.Tensor, plan: KeyPlan) -> Sequence[Kernel]:
        order = self.verdicts.order(q, plan.density) if self.verdicts.about(q) else None
        if order is not None:
            return ranked(self._all(q.device), order)
        return preferred_kernel(q.device) if self.kernels is None else self.kernels

    def _test(
        self, kernel: Kernel, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float,
        text: torch.Tensor,
    ) -> torch.Tensor | None:  # fmt: skip
        """The output if the kernel passes; None and a note if it does not."""
        try:
            fault = random_fault(kernel, q, plan)
            if fault is None:
                output = kernel(q, k, v, plan, scale, text)
                fault = sampled_fault(output, q, k, v, plan, scale, text)
            if fault is None:
                return output
        except Exception as error:  # whatever it is: compilers and extensions fail in many ways
            lines = str(error).splitlines()
            fault = f"fails with {type(error).__name__}" + f": {lines[0]}" * bool(lines)
        self.notes.append(
            f"kernel {kernel.name} is not used ({str(q.dtype)[6:]}, head width {q.shape[-1]}): it {fault}"
        )
        return None


def attend(inputs: AttentionInputs, plans: Sequence[HeadPlan], kernel: Kernel | None = None) -> torch.Tensor:
    """The attention output (B, H, L, D): video rows by the plans, text rows dense, padded text never attended.

    kernel: None takes the fastest of those that pass their tests on this device, and tests them anew in each call.
    Raises NoKernel if none does.
    """
    run = kernel or ChosenKernel()
    samples = list(samples_with_text(inputs))
    if len(plans) == 1 and plans[0].heads is None and len(samples) == 1:
        return _heads(inputs, plans[0], run, *samples[0])
    out = torch.empty_like(inputs.q, memory_format=torch.contiguous_format)
    for rows, text in samples:
        for part in plans:
            heads = slice(None) if part.heads is None else part.heads
            out[rows, heads] = _heads(inputs, part, run, rows, text)
    return out


@functools.cache
def available_kernels(device: torch.device) -> tuple[Kernel, ...]:
    """All kernels that can be tried on a device: for measurements."""
    flex = [Flex()] if device.type == "cuda" else []
    return (Gather(), *flex, *([XFormers()] if _has_xformers(device) else []))


@functools.cache
def preferred_kernel(device: torch.device) -> tuple[Kernel, ...]:
    """The order where none was measured: FlexAttention where its compiler has the tensor cores that it needs, xFormers
    on older GPUs, else gathering.

    One set for all sessions: what they have compiled, and how they did on random activations, is the process's.
    """
    if device.type == "cuda" and torch.version.cuda and torch.cuda.get_device_capability(device) >= (8, 0):
        return Flex(), Gather()
    return (XFormers(), Gather()) if _has_xformers(device) else (Gather(),)


def _has_xformers(device: torch.device) -> bool:
    return device.type == "cuda" and importlib.util.find_spec("xformers") is not None


def _heads(inputs: AttentionInputs, part: HeadPlan, run: Kernel, rows: slice, text: torch.Tensor) -> torch.Tensor:
    q, k, v = (
        tensor[rows] if part.heads is None else tensor[rows].index_select(1, part.heads)
        for tensor in (inputs.q, inputs.k, inputs.v)
    )
    if part.plan is None:
        return dense(q, k, v, inputs.layout, inputs.scale, text)
    return run(q, k, v, _of_samples(part.plan, rows), inputs.scale, text)


def samples_with_text(inputs: AttentionInputs) -> Iterator[tuple[slice, torch.Tensor]]:
    """Samples with the text keys that they attend: all at once if they agree, else one by one and still unmasked."""
    text, mask = all_text(inputs.layout, inputs.q.device), inputs.key_mask
    if mask is None or not len(text):
        yield slice(None), text
        return
    yield from kept_keys(mask, inputs.layout.text_rows)


def _of_samples(plan: KeyPlan, rows: slice) -> KeyPlan:
    """A plan for some of the samples."""
    if rows == slice(None):
        return plan
    order, blocks = (
        tensor[rows] if tensor.dim() == 4 and len(tensor) > 1 else tensor for tensor in (plan.order, plan.key_blocks)
    )
    return plan if order is plan.order and blocks is plan.key_blocks else KeyPlan(plan.layout, order, blocks)
