"""Attention over all keys but the padded text: for whole heads, and for the rows of text beside sparse video."""

from __future__ import annotations

import functools
from collections.abc import Iterable, MutableMapping

import torch
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from accel.attention.layout import TokenLayout


@functools.lru_cache(maxsize=256)
def all_text(layout: TokenLayout, device: torch.device) -> torch.Tensor:
    """The places of all text tokens in the sequence: the same tensor each time."""
    with torch.inference_mode(False):  # it may be asked for outside of it later
        return torch.arange(layout.tokens, device=device)[layout.text_rows]


_places: MutableMapping[torch.Tensor, tuple[int, ...]] = WeakTensorKeyDictionary()


def places_of(text: torch.Tensor) -> tuple[int, ...]:
    """The places that a tensor holds; a host sync, once for each tensor, none if they are remembered."""
    if text not in _places:
        remember_places(text, text.tolist())
    return _places[text]


def remember_places(text: torch.Tensor, places: Iterable[int]) -> torch.Tensor:
    """The tensor itself, which holds these places."""
    _places[text] = tuple(places)
    return text


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
