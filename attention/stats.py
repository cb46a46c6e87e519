"""Counts one pipeline call's self-attentions: how many were sparse or in fewer bits, and why not all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from accel.attention.break_even import attention_share

WARMUP = "in the first steps (warmup)"
FINAL = "in the last steps (final)"
FIRST_LAYERS = "in the first layers (dense_layers)"
FINAL_LAYERS = "in the last layers (final_layers)"
MASKED = "with a mask that is more than padded text"
CHOSEN = "as the method chose"
UNFIT = "because no kernel passes its test here"
SLOWER = "where the model's own attention was measured to be faster (measured)"

MOST_REASONS = 4


class AttentionStats:
    """Counts self-attentions as they are computed. A module that runs without one being seen is counted too.

    plans: whether the method plans which keys are seen. rounds: what it calls what it computes densely; "" for nothing.
    """

    def __init__(self, plans: bool = True, rounds: str = "") -> None:
        self.plans, self.rounds = plans, rounds
        self.unreachable = 0  # modules inside of compiled blocks
        self.sparse = 0
        self.rounded = 0
        self.dense: Counter[str] = Counter()
        self.peak = 0
        self._kernels: Counter[str] = Counter()
        self._arithmetics: Counter[str] = Counter()
        self._density = 0.0
        self._ran: set[tuple[str, str]] = set()
        self._seen: set[tuple[str, str]] = set()
        self._longest = (0, 0)

    @property
    def total(self) -> int:
        return self.sparse + self.rounded + sum(self.dense.values())

    @property
    def computed_by_us(self) -> int:
        """How many were not left to the model."""
        return self.sparse + self.rounded

    def record_module(self, denoiser: str, path: str) -> None:
        """A module that should have a self-attention is called."""
        self._ran.add((denoiser, path))

    def record_call(self, denoiser: str, path: str, query: torch.Tensor) -> None:
        """A self-attention is asked for, which `record_dense`, `record_plan` or `record_low_precision` says more
        about."""
        self._seen.add((denoiser, path))
        self._longest = max(self._longest, (query.shape[-2], query.shape[1] * query.shape[-1]))

    def record_dense(self, reason: str) -> None:
        """It is computed as the model does. The reason completes "dense: 3 ..."."""
        self.dense[reason] += 1

    def record_plan(self, density: float, kernel: str) -> None:
        """It is computed by a plan of this density."""
        self.sparse += 1
        self._density += density
        self._kernels[kernel] += 1

    def record_low_precision(self, kernel: str) -> None:
        """All of it is computed in fewer bits."""
        self.rounded += 1
        self._arithmetics[kernel] += 1

    def record_memory(self, tensors: Sequence[torch.Tensor]) -> None:
        """The method holds these after a denoiser call."""
        self.peak = max(self.peak, sum(tensor.numel() * tensor.element_size() for tensor in tensors))

    def summary(self, transformer: bool) -> str:
        """The account in a sentence. transformer: the denoiser is one, so attention's share is known."""
        parts = [self._outcome(transformer)]
        if self.dense:
            reasons = [f"{count} {reason}" for reason, count in self.dense.most_common(MOST_REASONS)]
            rest = sum(self.dense.values()) - sum(count for _, count in self.dense.most_common(MOST_REASONS))
            parts.append("dense: " + ", ".join(reasons + [f"{rest} for other reasons"] * bool(rest)))
        unseen = len(self._ran - self._seen)
        if unseen:
            parts.append(
                f"{unseen} attention modules never call torch's scaled_dot_product_attention and stay as they are:"
                f' choose the backend with set_attention_backend("native"), unless the model\'s attention is linear'
            )
        if self.unreachable:
            parts.append(
                f"{self.unreachable} self-attentions are inside compiled blocks and stay out of reach: leave the blocks"
                f" uncompiled to reach them"
            )
        return "; ".join(parts)

    def _outcome(self, transformer: bool) -> str:
        text, some = "", f" of {self.total} self-attentions"
        if self.plans:
            text, some = f"{self.sparse}{some} sparse", ""
        if self.sparse:
            kernels = ", ".join(self._kernels)
            text += f", computing {self._density / self.sparse:.0%} of their query-key pairs (kernel {kernels})"
        if self.rounds:
            text += ", " * bool(text) + f"{self.rounded}{some} {self.rounds}"
        if self.rounded:
            text += f" (kernel {', '.join(self._arithmetics)})"
        tokens, width = self._longest
        if tokens and transformer:
            text += f"; attention is about {attention_share(tokens, width):.0%} of a step at {tokens} tokens"
        return text
