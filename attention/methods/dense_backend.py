"""Dense attention by the back end that was measured to be the fastest here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from accel.attention.low_precision import DenseKernel, LowPrecisionAttention

# Torch's operators, and what they want between the values and the scale: no mask, no log-sum-exp.
BACKENDS: dict[str, tuple[str, tuple[object, ...]]] = {
    "flash": ("_scaled_dot_product_flash_attention", ()),
    "cudnn": ("_scaled_dot_product_cudnn_attention", (None, False)),
    "efficient": ("_scaled_dot_product_efficient_attention", (None, False)),
    "flash for processors": ("_scaled_dot_product_flash_attention_for_cpu", ()),
    "math": ("_scaled_dot_product_attention_math", ()),
}
OF_DEVICE = {"cpu": ("flash for processors", "math"), "cuda": ("flash", "cudnn", "efficient", "math")}


@dataclass(frozen=True)
class DenseBackend(LowPrecisionAttention):
    """All pairs, in the model's own precision, by torch's flash, cuDNN, memory-efficient or plain kernel or xFormers'.

    Not published.

    Torch chooses among its own by fixed rules, which are right for most shapes and not for all. Take what
    `accel.attention.measure(pipe, call, DenseBackend())` returns: without `measured` it leaves attention to the model.
    The output differs from the model's own in the last bits, and is the same each time. No memory, but for the scores
    of the plain kernel where that is the fastest: those of short sequences.
    """

    words: ClassVar[str] = "dense by another back end"

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Sequence[DenseKernel] | str:
        if not self.measured and self.min_tokens < 0:
            return "because its back ends were not measured (accel.attention.measure)"
        found: list[DenseKernel] = [TorchBackend(name) for name in OF_DEVICE.get(device.type, ("math",))]
        return [*found, XFormersDense()] if device.type == "cuda" and importlib.util.find_spec("xformers") else found

    def least_tokens(self, device: torch.device) -> int:
        return max(self.min_tokens, 0)


class TorchBackend:
    """One of torch's, called by its own name: to switch the others off would be for all threads of the process."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        operator, without = BACKENDS[self.name]
        output: torch.Tensor = getattr(torch.ops.aten, operator)(q, k, v, *without, scale=scale)[0]
        return output


class XFormersDense:
    """Of another package, which wants heads behind tokens."""

    name = "xformers"

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        from xformers.ops import memory_efficient_attention

        output: torch.Tensor = memory_efficient_attention(*(part.transpose(1, 2) for part in (q, k, v)), scale=scale)
        return output.transpose(1, 2)
