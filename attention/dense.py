"""Attention over all keys but the padded text: for whole heads, and for the rows of text beside sparse video."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from accel.attention.layout import TokenLayout


def all_text(layout: TokenLayout, device: torch.device) -> torch.Tensor:
    """The places of all text tokens in the sequence."""
    return torch.arange(layout.tokens, device=device)[layout.text_rows]


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, scale: float, text: torch.Tensor
) -> torch.Tensor:
    """What the queries (B, h, n, D) see among all video keys and the text keys at the places `text`.

    Padded text is left out of the keys instead of masked, because a mask rules out the fastest kernels of torch.
    """
    if len(text) < layout.text:
        video = torch.arange(layout.tokens, device=k.device)[layout.video_rows]
        kept = torch.cat([text, video] if layout.text_first else [video, text])
        k, v = k.index_select(2, kept), v.index_select(2, kept)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)
