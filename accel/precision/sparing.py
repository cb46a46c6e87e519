"""Where a model stays in its own precision: in the first and last steps, and in layers of few tokens."""

from __future__ import annotations

from dataclasses import dataclass

from accel.clock import StepContext
from accel.precision.format import Format
from accel.precision.layers import Layer

WARMUP = "in the first steps (warmup)"
FINAL = "in the last steps (final)"
SHORT = "of few tokens (min_tokens)"
SMALL = "too small to gain (min_tokens)"
FEW = 16  # tokens of a sample; what modulates receives one


@dataclass(frozen=True)
class Sparing:
    """warmup, final: shares of the steps. min_tokens: of each sample; below 0 those are spared that would not gain."""

    warmup: float
    final: float
    min_tokens: int

    def why(self, context: StepContext) -> str:
        """Why this step is spared; "" if it is not."""
        if context.position < round(self.warmup * context.total, 6):
            return WARMUP
        return FINAL if context.total - 1 - context.position < round(self.final * context.total, 6) else ""

    def why_small(self, tokens: int, samples: int, format: Format, layer: Layer) -> str:
        """Why a product of so many tokens for each sample is left alone; "" if it is not."""
        if tokens < (FEW if self.min_tokens < 0 else self.min_tokens):
            return SHORT
        work = tokens * samples * layer.weight.numel()
        pays = self.min_tokens >= 0 or layer.weight.device.type != "cpu" or work >= format.pays_from
        return "" if pays else SMALL
