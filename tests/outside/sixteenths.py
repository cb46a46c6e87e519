"""A number format: weights as multiples of a sixteenth of the largest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from accel.method import setting
from accel.precision.format import Format
from accel.precision.layers import Layer
from accel.precision.method import ReducedPrecision


@dataclass(frozen=True)
class Sixteenths(ReducedPrecision):
    """Each layer's weights are rounded to `parts` parts of the largest one."""

    parts: int = setting(16, 1, None, "parts of the largest weight", dial=True)

    @classmethod
    def for_tuning(cls) -> Sequence[Sixteenths]:
        return (cls(min_tokens=2),)

    def formats(self) -> Mapping[str, Format]:
        return {"": PartsFormat(self.parts)}


class PartsFormat(Format):
    name = "parts"

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def weights(self, layer: Layer) -> Sequence[torch.Tensor]:
        part = layer.weight.detach().abs().amax() / self.parts
        return [(layer.weight.detach() / part).round() * part]

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
        return F.linear(activations, weights[0], layer.bias).to(dtype)
