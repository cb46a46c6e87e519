"""Stable Diffusion XL, and Kolors, which has its U-Net."""

from __future__ import annotations

from typing import Any

from tests.tiny.image import POOLED, TEXT
from tests.tiny.zoo.case import Case
from tests.tiny.zoo.sizes import SIZES

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
    Case("StableDiffusionXLControlNetUnionPipeline", CONTROLLED),
    Case("StableDiffusionXLControlNetUnionImg2ImgPipeline", CONTROLLED),
    Case("StableDiffusionXLControlNetUnionInpaintPipeline", CONTROLLED),
    Case("StableDiffusionXLControlNetXSPipeline", XL),
    Case("StableDiffusionXLAdapterPipeline", XL),
    Case("LEditsPPPipelineStableDiffusionXL", XL),
    Case("TextToVideoZeroSDXLPipeline", XL),
    Case("AnimateDiffSDXLPipeline", XL),
    Case("KolorsPipeline", XL),
    Case("KolorsImg2ImgPipeline", XL),
    Case("KolorsPAGPipeline", XL),
)
