"""Pipelines of several stages: a prior that makes an embedding of a picture, a decoder, an upscaler."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, UnCLIPScheduler

from tests.tiny.case import Ask
from tests.tiny.image import BETAS, POOLED, TEXT
from tests.tiny.inputs import picture
from tests.tiny.zoo.case import Case, pil
from tests.tiny.zoo.stand_ins import PooledFirst, text_encoder

ARRAYS = {"output_type": "np"}
ONE = "its prior takes one generator"
TENSORS = {"output_type": "pt"}

# Kandinsky 2
NARROW: dict[str, Any] = {"width": POOLED}
PRIOR: dict[str, Any] = {"text_encoder": NARROW, "image_encoder": {"projection": POOLED}}
COMBINED: dict[str, Any] = {"prior_text_encoder": NARROW, "prior_image_encoder": {"projection": POOLED}}
BY_PICTURE: dict[str, Any] = {
    "out_channels": 8,
    "addition_embed_type": "image",
    "encoder_hid_dim_type": "image_proj",
    "encoder_hid_dim": POOLED,
    "class_embed_type": None,
}
BY_BOTH = BY_PICTURE | {
    "addition_embed_type": "text_image",
    "encoder_hid_dim_type": "text_image_proj",
    "cross_attention_dim": POOLED,
    "encoder_hid_dim": TEXT,
}
LEARNED = {"scheduler": lambda: DDPMScheduler(**BETAS, variance_type="learned_range", clip_sample=False)}
K21: dict[str, Any] = {"unet": BY_BOTH, "text_encoder": lambda: PooledFirst(pooled=POOLED)}
K22: dict[str, Any] = {"unet": BY_PICTURE} | LEARNED
WIDER = {"in_channels": 9}
HINTED = K22 | {"unet": BY_PICTURE | {"in_channels": 8, "addition_embed_type": "image_hint"}}


def imagined(ask: Ask) -> dict[str, Any]:
    """What a prior has made of a prompt."""
    return {"image_embeds": ask.words(POOLED), "negative_image_embeds": ask.negative_words(POOLED)}


def shown(ask: Ask) -> dict[str, Any]:
    """The first Kandinsky gives no latents."""
    return imagined(ask) | TENSORS


def hinted(ask: Ask) -> dict[str, Any]:
    return imagined(ask) | TENSORS | {"hint": picture(2, 64, 64).repeat(ask.batch, 1, 1, 1)}


def larger(ask: Ask) -> dict[str, Any]:
    return TENSORS | {"original_image": [pil(4, 32, 32)] * ask.batch}


def masks(ask: Ask) -> dict[str, Any]:
    given = {"attention_mask": torch.ones(ask.batch, 8, dtype=torch.long)}
    return given | ({"negative_attention_mask": given["attention_mask"]} if ask.guidance else {})


# DeepFloyd IF
PIXELS: dict[str, Any] = {"unet": {"in_channels": 3, "out_channels": 6}} | LEARNED
FINER = PIXELS | {"unet": {"in_channels": 6, "out_channels": 6, "class_embed_type": "timestep"}}

# Cascade and Wuerstchen
BLOCKS = {
    "in_channels": 4,
    "out_channels": 4,
    "conditioning_dim": TEXT,
    "block_out_channels": (16, 32),
    "num_attention_heads": (2, 2),
    "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1),
    "clip_text_pooled_in_channels": POOLED,
}
STAGE_C = BLOCKS | {
    "in_channels": 16, "out_channels": 16, "clip_text_in_channels": TEXT, "clip_image_in_channels": POOLED,
    "switch_level": (False,),
}  # fmt: skip
STAGE_B = BLOCKS | {"effnet_in_channels": 16}


def small_pictures(ask: Ask) -> dict[str, Any]:
    return {"image_embeddings": ask.words(16, 2, 2)}


def cascade_words(ask: Ask) -> dict[str, Any]:
    given = {"prompt_embeds": ask.words(8, TEXT), "prompt_embeds_pooled": ask.words(1, POOLED)}
    if ask.guidance:
        given |= {
            "negative_prompt_embeds": ask.negative_words(8, TEXT),
            "negative_prompt_embeds_pooled": ask.negative_words(1, POOLED),
        }
    return given


# unCLIP and Shap-E
DECODER = {
    "out_channels": 8,
    "class_embed_type": "identity",
    "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "in_channels": 3,
    "resnet_time_scale_shift": "scale_shift",
}
UPPER = {"in_channels": 6, "out_channels": 3, "sample_size": 32}
UNCLIP: dict[str, Any] = {
    "text_encoder": NARROW,
    "decoder_scheduler": lambda: UnCLIPScheduler(variance_type="learned_range"),
    "prior_scheduler": lambda: UnCLIPScheduler(prediction_type="sample"),
    "decoder": DECODER | {"out_channels": 6, "sample_size": 16},
    "super_res_first": UPPER,
    "super_res_last": UPPER,
}
SHAPES: dict[str, Any] = {
    "prior": {
        "num_attention_heads": 2, "attention_head_dim": 16, "embedding_dim": 16, "num_embeddings": 32,
        "additional_embeddings": 0, "time_embed_act_fn": "gelu", "norm_in_type": "layer", "encoder_hid_proj_type": None,
        "added_emb_type": None, "time_embed_dim": 64, "embedding_proj_dim": 16, "clip_embed_dim": 32,
    },
}  # fmt: skip

CASES = (
    Case(
        "StableCascadePriorPipeline",
        {"prior": STAGE_C, "text_encoder": text_encoder},
        cascade_words,
        leave_out=("images",),
        size=(128, 128),
    ),
    Case("StableCascadeDecoderPipeline", {"decoder": STAGE_B}, lambda ask: cascade_words(ask) | small_pictures(ask)),
    Case(
        "StableCascadeCombinedPipeline",
        {"prior_prior": STAGE_C, "decoder": STAGE_B},
        ARRAYS,
        words=True,
        size=(128, 128),
    ),
    Case("WuerstchenPriorPipeline", {"text_encoder": text_encoder}, size=(128, 128)),
    Case(
        "WuerstchenDecoderPipeline",
        {"latent_dim_scale": 10.0},
        lambda ask: {"image_embeddings": ask.words(16, 2, 2)},
        alone="one embedding a call",
    ),
    Case(
        "WuerstchenCombinedPipeline",
        {"prior_prior": {"c_in": 16}},
        ARRAYS,
        words=True,
        size=(128, 128),
        alone="one prompt a call",
    ),
    Case("KandinskyPipeline", K21, shown),
    Case("KandinskyImg2ImgPipeline", K21, shown, rows=True),
    Case("KandinskyInpaintPipeline", K21 | {"unet": BY_BOTH | WIDER}, shown, rows=True),
    Case("KandinskyPriorPipeline", PRIOR, TENSORS, alone=ONE),
    Case("KandinskyCombinedPipeline", K21 | COMBINED, TENSORS, alone=ONE),
    Case("KandinskyImg2ImgCombinedPipeline", K21 | COMBINED, TENSORS, alone=ONE),
    Case("KandinskyInpaintCombinedPipeline", K21 | COMBINED | {"unet": BY_BOTH | WIDER}, TENSORS, alone=ONE),
    Case("KandinskyV22Pipeline", K22, imagined),
    Case("KandinskyV22Img2ImgPipeline", K22, imagined),
    Case("KandinskyV22InpaintPipeline", K22 | {"unet": BY_PICTURE | WIDER}, imagined, rows=True),
    Case("KandinskyV22PriorPipeline", PRIOR, TENSORS, alone=ONE),
    Case("KandinskyV22PriorEmb2EmbPipeline", PRIOR, TENSORS, alone=ONE),
    Case("KandinskyV22ControlnetPipeline", HINTED, hinted),
    Case("KandinskyV22ControlnetImg2ImgPipeline", HINTED, hinted),
    Case("KandinskyV22CombinedPipeline", K22 | COMBINED, alone=ONE),
    Case("KandinskyV22Img2ImgCombinedPipeline", K22 | COMBINED, alone=ONE),
    Case("KandinskyV22InpaintCombinedPipeline", K22 | COMBINED | {"unet": BY_PICTURE | WIDER}, alone=ONE),
    Case("Kandinsky3Pipeline", {}, masks),
    Case("Kandinsky3Img2ImgPipeline", {}, masks),
    Case("IFPipeline", PIXELS, TENSORS, size=(32, 32)),
    Case("IFImg2ImgPipeline", PIXELS, TENSORS, size=(32, 32), rows=True),
    Case("IFInpaintingPipeline", PIXELS, TENSORS, size=(32, 32), rows=True),
    Case("IFSuperResolutionPipeline", FINER, TENSORS, size=(32, 32), rows=True),
    Case("IFImg2ImgSuperResolutionPipeline", FINER, larger, size=(32, 32), rows=True),
    Case("IFInpaintingSuperResolutionPipeline", FINER, larger, size=(32, 32), rows=True),
    Case("UnCLIPPipeline", UNCLIP, TENSORS),
    Case("UnCLIPImageVariationPipeline", UNCLIP | {"image_encoder": {"projection": POOLED}}, TENSORS),
    Case("ShapEPipeline", SHAPES, {"frame_size": 8}),
    Case("ShapEImg2ImgPipeline", SHAPES, {"frame_size": 8}),
)
