"""Layers by products of 8-bit floats, on GPUs that have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch

from accel.precision.format import Format
from accel.precision.integers import LEAST
from accel.precision.layers import Layer
from accel.precision.method import ReducedPrecision

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
CAPABILITY = (8, 9)  # of the first NVIDIA GPUs with such products
AGREEMENT = 0.999  # cosine with the product of the rounded numbers


class Floats(NamedTuple):
    """Rows of 8-bit floats (M, K) and what each row is to be multiplied with, (M, 1) in float32."""

    numbers: torch.Tensor
    scales: torch.Tensor


@dataclass(frozen=True)
class Float8(ReducedPrecision):
    """The linear layers with activations and weights in 8-bit floats (e4m3): activations scaled for each token when
    they arrive, weights for each output channel once.

    Source: FP8 Formats for Deep Learning (arXiv 2209.05433), as torchao's dynamic float8 with scales by row. Relative
    error of a product about 3 %. On NVIDIA GPUs from compute capability 8.9 on, where torch's product passes a test; it
    was not run on one here. CPUs have no such products: take BFloat16 or Int8. Widths that are multiples of 16.
    Memory: the layers' weights once more in 8 bits. Not for CPUs, nor for older GPUs.
    """

    def formats(self) -> Mapping[str, Format]:
        return {"": Float8Format()}


class Float8Format(Format):
    """Rounds both factors to 8-bit floats; sums in float32 or nearly; the output is rounded to bfloat16."""

    name = "float8"
    rounding = 0.03

    def why_not(self, layer: Layer) -> str:
        device = layer.weight.device
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY or not is_right(device):
            return "because this device has no products of 8-bit floats, or none that passes its test"
        return "of a width that is no multiple of 16" if any(size % 16 for size in layer.weight.shape) else ""

    def weights(self, layer: Layer) -> Sequence[torch.Tensor]:
        bias = [] if layer.bias is None else [layer.bias.detach().bfloat16()]
        return [*rounded_floats(layer.weight.detach()), *bias]

    def activations(self, x: torch.Tensor) -> Floats:
        return rounded_floats(x.reshape(-1, x.shape[-1]))

    def product(
        self, activations: Floats, weights: Sequence[torch.Tensor], layer: Layer, x: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        numbers, scales, *bias = weights
        output = float8_product(activations, Floats(numbers, scales), bias[0] if bias else None)
        return output.view(*x.shape[:-1], -1).to(dtype)


def rounded_floats(x: torch.Tensor) -> Floats:
    """Rows (M, K), each scaled so that its largest value is the largest that there is."""
    scales = x.abs().amax(1, keepdim=True).float().clamp_min(LEAST) / LARGEST
    return Floats((x / scales).clamp(-LARGEST, LARGEST).to(FLOAT8), scales)


def float8_product(activations: Floats, weights: Floats, bias: torch.Tensor | None) -> torch.Tensor:
    """(M, K) x (N, K) -> (M, N) in bfloat16."""
    return torch._scaled_mm(
        activations.numbers,
        weights.numbers.T,
        scale_a=activations.scales,
        scale_b=weights.scales.T.contiguous(),
        bias=bias,
        out_dtype=torch.bfloat16,
    )


@cache
def is_right(device: torch.device) -> bool:
    """Whether the device's product of random rows is that of what they were rounded to."""
    draw = torch.Generator().manual_seed(0)
    rows, weights = (rounded_floats(torch.randn(size, 64, generator=draw).to(device)) for size in (48, 32))
    right = (rows.numbers.float() * rows.scales) @ (weights.numbers.float() * weights.scales).T
    try:
        output = float8_product(rows, weights, None).float()
    except Exception:  # a build or a device without it says so in many ways
        return False
    return bool(torch.nn.functional.cosine_similarity(output.flatten(), right.flatten(), dim=0) > AGREEMENT)
