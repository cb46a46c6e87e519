"""Widths that the parts of a tiny pipeline have in common."""

from __future__ import annotations

from typing import Any

from tests.tiny.image import TEXT

HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}
WIDTH = 32  # of a transformer with these heads
LAYERS = {**HEADS, "num_layers": 2}
FLUX_LAYERS = {**LAYERS, "num_single_layers": 2, "joint_attention_dim": TEXT}
FOUR = (4, 4, 4, 4)
EIGHT = (8, 8, 8, 8)
CONTROL_HINT = {"conditioning_embedding_out_channels": EIGHT}
WAN = {**LAYERS, "text_dim": TEXT, "freq_dim": 32, "ffn_dim": 64}
ACE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
