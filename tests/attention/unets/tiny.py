"""Tiny U-Nets with the layers of the real ones, trained (they say) on latents of 8 x 8, and pipelines around them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from tests import tiny
from tests.tiny import run
from tests.tiny.case import Ask
from tests.tiny.copies import copied
from tests.tiny.image import POOLED, TEXT
from tests.tiny.unet import build_sd, build_sdxl
from tests.tiny.weights import randomise

NATIVE = 8  # the pipelines ask for latents of 16 x 16, or 9 x 13


def _larger(name: str) -> tiny.TinyPipeline:
    """The tiny pipeline, asked for pictures of four times the area: smaller ones have too few tokens."""
    own = tiny.TINY[name].answer

    def answer(ask: Ask) -> dict[str, Any]:
        return own(ask) | ask.extent((128, 128), (72, 104))

    return replace(tiny.TINY[name], answer=answer)


TINY = tiny.TINY | {name: _larger(name) for name in ("sd", "sdxl")}

SHARED: dict[str, Any] = {
    "sample_size": NATIVE,
    "layers_per_block": 2,
    "cross_attention_dim": TEXT,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
}


def unet(name: str, **changes: Any) -> UNet2DConditionModel:
    """With the blocks of Stable Diffusion 1.5 ("sd") or of SDXL."""
    if name == "sd":
        return randomise(UNet2DConditionModel(**SHARED | {"block_out_channels": (8, 8, 16, 16)} | changes))
    own = {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + POOLED,
    }
    return randomise(UNet2DConditionModel(**SHARED | own | changes))


def build(name: str, **changes: Any) -> DiffusionPipeline:
    """Fresh objects each time, always with the same weights."""
    return copied(_untouched(name, **changes))


@cache
def _untouched(name: str, **changes: Any) -> DiffusionPipeline:
    pipe = build_sd() if name == "sd" else build_sdxl()
    pipe.unet = unet(name, **changes)
    return pipe


@cache
def pipeline(name: str) -> DiffusionPipeline:
    """One for all tests, which leave it unaccelerated."""
    return build(name)


@cache
def plain(name: str, **options: Any) -> torch.Tensor:
    """What an untouched one gives."""
    return run(build(name), TINY[name], **options)
