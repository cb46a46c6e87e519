"""A number format for layers: how it holds weights, what it makes of activations, and how it multiplies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from accel.precision.layers import Layer


class Format(ABC):
    """One way to compute layers in fewer bits. Stateless: what it makes of a layer's weights is kept by others.

    name: what recipes and reports call it. rounding: the relative error of a product, on activations like a model's.
    inner_dtype: what attentions and feed-forwards compute in between their layers; None is the model's own data type.
    pays_from: multiplications of a product from which it is faster on a CPU than float32.
    """

    name: str = ""
    rounding: float = 0.0
    inner_dtype: torch.dtype | None = None
    pays_from: int = 0
    convolutions: bool = False

    def why_not(self, layer: Layer) -> str:
        """Why this layer cannot be computed like that on its device, to complete "exact: 3 ..."; "" where it can."""
        return ""

    @abstractmethod
    def weights(self, layer: Layer) -> Sequence[torch.Tensor]:
        """What is kept of a layer: its weight and what else a product needs, in this format."""

    @abstractmethod
    def activations(self, x: torch.Tensor) -> Any:
        """The input of a layer as a product needs it. Made once for all layers that receive the same tensor, so it
        must hang on nothing but `x`, and is not to be changed.
        """

    @abstractmethod
    def product(
        self, activations: Any, weights: Sequence[torch.Tensor], layer: Layer, x: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """The layer's output for `x`, of which `activations` were made, in this data type."""

    def gelu(self, activations: Any, weights: Sequence[torch.Tensor], how: str) -> torch.Tensor | None:
        """GELU, as `how` says, of the layer's output, in `inner_dtype`; None where it cannot be a part of a product."""
        return None

    def compute(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        """All of it at once, for tests and measurements."""
        return self.product(self.activations(x), self.weights(layer), layer, x, x.dtype)
