"""Layers by products of 8-bit integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from accel.precision import integers
from accel.precision.format import Format
from accel.precision.layers import Layer
from accel.precision.method import ReducedPrecision


@dataclass(frozen=True)
class Int8(ReducedPrecision):
    """The linear layers with activations and weights in 8 bits: activations scaled for each token when they arrive,
    weights for each output channel once.

    Source: LLM.int8() (arXiv 2208.07339) without its outliers, as torchao's `int8_dynamic_activation_int8_weight`.
    Sums are exact; relative error of a product about 1 %, more where a few channels are far larger than the others. On
    CPUs with integer instructions (VNNI, AMX), and on NVIDIA GPUs, where it was not measured. The activations are
    rounded once for all layers that receive the same tensor, such as q, k and v.
    Memory: the layers' weights once more in 8 bits. Not for narrow models, where rounding costs what the product saves.
    Numbers: docs/precision.md.
    """

    def formats(self) -> Mapping[str, Format]:
        return {"": Int8Format()}


class Int8Format(Format):
    """Rounds both factors to 8-bit integers; exact sums; scales and bias in float32."""

    name = "int8"
    rounding = 0.015
    inner_dtype = torch.bfloat16
    pays_from = 2**27

    def why_not(self, layer: Layer) -> str:
        if not integers.kernel(layer.weight.device.type):
            return "because this device has no instructions for 8-bit integers, or no kernel that passes its test"
        if layer.weight.device.type != "cpu" and any(size % 8 for size in layer.weight.shape):
            return "of a width that is no multiple of 8"
        return ""

    def weights(self, layer: Layer) -> Sequence[torch.Tensor]:
        bias = [] if layer.bias is None else [layer.bias.detach().float()]
        return [*integers.packed(layer.weight), *bias]

    def activations(self, x: torch.Tensor) -> integers.Integers:
        return integers.rounded(x.reshape(-1, x.shape[-1]))

    def product(
        self,
        activations: integers.Integers,
        weights: Sequence[torch.Tensor],
        layer: Layer,
        x: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        numbers, scales, zeros, *bias = weights
        held = integers.PackedWeights(numbers, scales, zeros)
        output = integers.product(activations, held, bias[0] if bias else None)
        return output.view(*x.shape[:-1], -1).to(dtype)
