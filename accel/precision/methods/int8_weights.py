"""Layers whose weights are kept in 8 bits, and multiplied in the model's own precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch.nn import functional as F

from accel.method import setting
from accel.precision.format import Format
from accel.precision.integers import rounded
from accel.precision.layers import Layer
from accel.precision.method import ReducedPrecision


@dataclass(frozen=True)
class Int8Weights(ReducedPrecision):
    """The linear layers with weights in 8 bits, scaled for each output channel, and activations as they are.

    Source: as torchao's `int8_weight_only`. It saves memory and no time: a layer's weights are put together anew for
    each product. Relative error of a product about 0.5 %; nothing is lost of what latents differ in.
    Memory: a quarter of the layers' weights in float32, which are in files meanwhile. On any device, but only what is
    in main memory is replaced. Not for speed.
    """

    _: KW_ONLY
    memory: str = setting("replace", help="where the model's own weights are meanwhile", choices=("beside", "replace"))

    def formats(self) -> Mapping[str, Format]:
        return {"": Int8WeightsFormat()}


class Int8WeightsFormat(Format):
    """Rounds weights to 8-bit integers, and no activation."""

    name = "int8 weights"

    def weights(self, layer: Layer) -> Sequence[torch.Tensor]:
        bias = [] if layer.bias is None else [layer.bias.detach().clone()]
        return [*rounded(layer.weight.detach()), *bias]

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def product(
        self,
        activations: torch.Tensor,
        weights: Sequence[torch.Tensor],
        layer: Layer,
        x: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        numbers, scales, *bias = weights
        return F.linear(activations, (numbers * scales).to(x.dtype), *bias).to(dtype)
