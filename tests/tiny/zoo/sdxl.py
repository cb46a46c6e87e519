"""Stable Diffusion XL, and Kolors, which has its U-Net."""

from __future__ import annotations

from typing import Any

from tests.tiny.image import POOLED, TEXT
from tests.tiny.zoo.case import Case
from tests.tiny.zoo.stable_diffusion import ZERO, inverted, redrawn, sde
from tests.tiny.zoo.stand_ins import ProjectedEncoder, TokensFirst

ADDED: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + POOLED,
}
UNET: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    **ADDED,
}
XL = {"unet": UNET, "add_watermarker": False}
CONTROL = {name: value for name, value in UNET.items() if name != "up_block_types"}
UNION = XL | {"controlnet": CONTROL | {"num_attention_heads": None}}
XS = {
    "unet": UNET | {"layers_per_block": 2},
    "controlnet": {"down_block_types": UNET["down_block_types"], "transformer_layers_per_block": (1, 2)},
}
ADAPTER = {"adapter": {"adapter_type": "full_adapter_xl", "channels": [16, 32], "downscale_factor": 16}}
WORDS = XL | {"text_encoder": {"width": TEXT // 2}, "text_encoder_2": lambda: ProjectedEncoder(TEXT // 2)}
KOLORS = XL | {
    "unet": UNET | {"projection_class_embeddings_input_dim": 6 * 8 + TEXT},
    "text_encoder": TokensFirst,
}
CONTROLLED = XL | {"controlnet": CONTROL}


CASES = (
    Case("StableDiffusionXLPipeline", XL),
    Case("StableDiffusionXLImg2ImgPipeline", XL),
    Case("StableDiffusionXLInpaintPipeline", XL),
    Case("StableDiffusionXLInstructPix2PixPipeline", XL | {"unet": UNET | {"in_channels": 8}}),
    Case("StableDiffusionXLPAGPipeline", XL),
    Case("StableDiffusionXLPAGImg2ImgPipeline", XL),
    Case("StableDiffusionXLPAGInpaintPipeline", XL),
    Case("StableDiffusionXLControlNetPipeline", CONTROLLED),
    Case("StableDiffusionXLControlNetImg2ImgPipeline", CONTROLLED),
    Case("StableDiffusionXLControlNetInpaintPipeline", CONTROLLED),
    Case("StableDiffusionXLControlNetPAGPipeline", CONTROLLED),
    Case("StableDiffusionXLControlNetPAGImg2ImgPipeline", CONTROLLED),
    Case("StableDiffusionXLControlNetUnionPipeline", UNION, {"control_mode": [0]}),
    Case("StableDiffusionXLControlNetUnionImg2ImgPipeline", UNION, {"control_mode": [0]}),
    Case("StableDiffusionXLControlNetUnionInpaintPipeline", UNION, {"control_mode": [0]}),
    Case("StableDiffusionXLControlNetXSPipeline", XL | XS),
    Case("StableDiffusionXLAdapterPipeline", XL | ADAPTER, rows=True),
    Case(
        "LEditsPPPipelineStableDiffusionXL",
        WORDS | {"scheduler": sde},
        {"editing_prompt": "a hat", "use_intersect_mask": False},
        words=True,
        alone="one inverted picture a call",
        after=inverted,
    ),
    Case("TextToVideoZeroSDXLPipeline", WORDS, ZERO, words=True, alone="one clip a call"),
    Case("AnimateDiffSDXLPipeline", XL, after=redrawn),
    Case("KolorsPipeline", XL),
    Case("KolorsImg2ImgPipeline", KOLORS, words=True),
    Case("KolorsPAGPipeline", XL),
)
