"""Layers of a float32 model by products of bfloat16 matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from functools import cache

import torch
from torch.nn import functional as F

from accel.anatomy import Anatomy
from accel.lever import CompositeLever, Lever
from accel.method import setting
from accel.precision.decoder import DecoderLever
from accel.precision.format import Format
from accel.precision.layers import Layer
from accel.precision.method import ReducedPrecision
from accel.processor import has_instructions


@dataclass(frozen=True)
class BFloat16(ReducedPrecision):
    """The attentions and feed-forwards of a model in float32 in bfloat16, and everything between them in float32: what
    blocks hand on and add up, their norms, modulation.

    Not published. Relative error of a product 0.3 %. On CPUs with bfloat16 instructions (AVX512-BF16, AMX) and on GPUs;
    a model that is in 16 bits already has nothing to gain. Convolutions of U-Nets too. Memory: the layers' weights once
    more in 16 bits. Numbers: docs/precision.md. Not for models that are in 16 bits already.
    decoder: "16 bits" also runs a copy of the pipeline's decoder in bfloat16 with the channels last: on a CPU with such
    instructions nearly five times as fast (Stable Diffusion's, Wan's), at an error of a pixel value or two. It takes
    half of the decoder's memory once more.
    """

    _: KW_ONLY
    decoder: str = setting("own", help="what the last latents are decoded in", choices=("own", "16 bits"))

    @classmethod
    def for_tuning(cls) -> Sequence[BFloat16]:
        return (cls(), cls(attention="own"), cls(decoder="16 bits"))

    def formats(self) -> Mapping[str, Format]:
        return {"": BFloat16Format()}

    def build(self, anatomy: Anatomy) -> Lever:
        lever = super().build(anatomy)
        return lever if self.decoder == "own" else CompositeLever(self, [lever, DecoderLever(self)])


class BFloat16Format(Format):
    """Rounds both factors to bfloat16; sums in float32; the output is rounded to bfloat16 once."""

    name = "bfloat16"
    rounding = 0.004
    inner_dtype = torch.bfloat16
    pays_from = 2**23
    convolutions = True

    def why_not(self, layer: Layer) -> str:
        if layer.weight.dtype != torch.float32:
            return "because the model is in 16 bits already"
        if layer.weight.device.type == "cpu" and not has_instructions():
            return "because this CPU has no instructions for bfloat16"
        return ""

    def weights(self, layer: Layer) -> Sequence[torch.Tensor]:
        given = (layer.weight, layer.bias)
        weight, *bias = (tensor.detach().to(torch.bfloat16) for tensor in given if tensor is not None)
        if weight.device.type == "cpu" and isinstance(layer, torch.nn.Linear) and has_packed_products():
            with suppress(RuntimeError):  # of a shape that it does not take
                weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        return [weight, *bias]

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.bfloat16)

    def product(
        self,
        activations: torch.Tensor,
        weights: Sequence[torch.Tensor],
        layer: Layer,
        x: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        weight, *bias = weights
        if isinstance(layer, torch.nn.Conv2d):
            output: torch.Tensor = layer._conv_forward(activations, weight, bias[0] if bias else None)
            return output.to(dtype)
        if weight.is_mkldnn:
            return _packed_product(activations, weight, bias[0] if bias else None).to(dtype)
        return F.linear(activations, weight, *bias).to(dtype)

    def gelu(self, activations: torch.Tensor, weights: Sequence[torch.Tensor], how: str) -> torch.Tensor | None:
        weight, *bias = weights
        return _packed_product(activations, weight, bias[0] if bias else None, how) if weight.is_mkldnn else None


def _packed_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: str = "") -> torch.Tensor:
    output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], gelu)
    return output


@cache
def has_packed_products() -> bool:
    """Whether this build of torch multiplies weights that are in the processor's own order already, to the same bits.
    It spares each product of a thousand tokens a tenth of its time, and one of a hundred a third.
    """
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw).bfloat16() for shape in ((5, 48, 64), (96, 64), (96,)))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return bool(packed.is_mkldnn) and torch.equal(_packed_product(x, packed, bias), F.linear(x, weight, bias))
    except Exception:  # a build without it says so in many ways
        return False
