"""Intercepts the attention calls of a module while it runs, and may replace them.

A torch function mode stands around the module's forward, so the query, key and value are those that the model itself
made, after norms and rotary embedding, and no processor, global or upstream code is touched. What does not come through
torch's scaled_dot_product_attention (flash-attn, xFormers and SageAttention packages, linear attention) is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from accel.attention.kept_keys import remember_mask

ATTENTION = torch.nn.functional.scaled_dot_product_attention


@dataclass(frozen=True)
class SdpaCall:
    """One call of scaled_dot_product_attention, by the names of its arguments."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_mask: torch.Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def dense(self) -> torch.Tensor:
        """What the model asked for. While one is being replaced the mode is off, so this is not seen again."""
        output: torch.Tensor = ATTENTION(**{name: getattr(self, name) for name in self.__dataclass_fields__})
        return output

    @property
    def among_tokens(self) -> bool:
        """Whether as many queries as keys meet: self-attention, and joint attention with a prompt."""
        tokens = self.query.shape[-2]
        return self.query.ndim == 4 and tokens == self.key.shape[-2] == self.value.shape[-2]

    @property
    def unusual(self) -> str:
        """What keeps it from being planned, apart from its mask; nothing for plain attention."""
        if self.is_causal:
            return "that are causal"
        if self.dropout_p:
            return "with dropout"
        return "with grouped queries" if self.query.shape[1] != self.key.shape[1] else ""


class SdpaObserver(TorchFunctionMode):
    """Passes every scaled_dot_product_attention within the block to `answer`."""

    def __init__(self, answer: Callable[[SdpaCall], torch.Tensor]) -> None:
        super().__init__()
        self._answer = answer

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is ATTENTION:
            return self._answer(SdpaCall(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


@dataclass
class KeyMasks:
    """Reads attention masks. The modules of a denoiser call share them, and reading one waits for the device, so what
    it said is kept for the duration of the call.
    """

    _known: list[tuple[torch.Tensor, slice, torch.Tensor | bool]] = field(default_factory=list)

    def read(self, attention: SdpaCall, video: slice) -> torch.Tensor | bool:
        """The keys that are there, (B, L) bool; True if all are; False if the mask is more than padded text: it
        differs between queries or heads, weighs the keys, or leaves video tokens out.
        """
        mask = attention.attn_mask
        if mask is None:
            return True
        for known, rows, answer in self._known:
            if rows == video and _same(known, mask):
                return answer
        answer = _key_mask(mask, attention.query.shape[0], attention.key.shape[-2], video)
        self._known.append((mask, video, answer))
        return answer


def _key_mask(mask: torch.Tensor, batch: int, tokens: int, video: slice) -> torch.Tensor | bool:
    while mask.ndim < 4:
        mask = mask[None]
    # Expanded dimensions have a stride of 0 and say nothing of their own.
    own = [size > 1 and stride > 0 for size, stride in zip(mask.shape, mask.stride(), strict=True)]
    if own[1] or own[2] or mask.shape[-1] != tokens:
        return False
    keys = mask[:, 0, 0]
    if keys.dtype == torch.bool:
        there, weighs = keys, torch.zeros_like(keys)
    else:
        there = keys > -1e3  # additive masks say 0, or so little that nothing is left: -1e4, -inf
        weighs = torch.where(there, keys, 0) != 0
    kept, weighed = torch.stack([there, weighs]).cpu()  # the one host sync
    if bool(weighed.any()):
        return False
    if bool(kept.all()):
        return True
    if not bool(kept[:, video].all()):
        return False
    return remember_mask(there.expand(batch, tokens), kept.expand(batch, tokens))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (
        a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
    )
