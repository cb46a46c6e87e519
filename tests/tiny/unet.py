"""Tiny U-Nets."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
)
from diffusers.image_processor import VaeImageProcessor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.tiny.case import Ask, TinyPipeline, quiet
from tests.tiny.image import BETAS, POOLED, TEXT, image_vae
from tests.tiny.inputs import picture
from tests.tiny.weights import randomise

WIDTHS = (16, 32)


SHAPE: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": WIDTHS,
    "layers_per_block": 1,
    "cross_attention_dim": TEXT,
    "norm_num_groups": 8,
}


def build_sd() -> DiffusionPipeline:
    """Stable Diffusion 1.5 with its own scheduler, PNDM, which evaluates once more than it is asked to."""
    scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    return quiet(
        StableDiffusionPipeline(
            image_vae(4), None, None, sd_unet(), scheduler, None, None, requires_safety_checker=False
        )
    )


def sd_unet() -> UNet2DConditionModel:
    return randomise(
        UNet2DConditionModel(
            **SHAPE,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
        )
    )


def build_sdxl() -> DiffusionPipeline:
    unet = UNet2DConditionModel(
        **SHAPE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + POOLED,
    )
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    return quiet(
        StableDiffusionXLPipeline(
            image_vae(4), None, None, None, None, randomise(unet), scheduler, add_watermarker=False
        )
    )


def build_animatediff() -> DiffusionPipeline:
    """The motion layers are made with the U-Net, so the adapter has nothing left to give and is absent."""
    unet = UNetMotionModel(
        **SHAPE,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        num_attention_heads=2,
        motion_num_attention_heads=2,
    )
    scheduler = DDIMScheduler(**BETAS, steps_offset=1, clip_sample=False)
    return quiet(AnimateDiffPipeline(image_vae(4), None, None, randomise(unet), None, scheduler))


def sd_arguments(ask: Ask) -> dict[str, Any]:
    """The second size has odd latents, which the U-Net halves and has to restore."""
    arguments: dict[str, Any] = ask.extent((64, 64), (72, 56))
    arguments |= {"guidance_scale": 3.0 if ask.guidance else 1.0, "prompt_embeds": ask.words(8, TEXT)}
    if ask.guidance:
        arguments["negative_prompt_embeds"] = ask.negative_words(8, TEXT)
    return arguments


def sdxl_arguments(ask: Ask) -> dict[str, Any]:
    arguments = sd_arguments(ask)
    arguments["pooled_prompt_embeds"] = ask.words(POOLED)
    if ask.guidance:
        arguments["negative_pooled_prompt_embeds"] = ask.negative_words(POOLED)
    return arguments


def animatediff_arguments(ask: Ask) -> dict[str, Any]:
    """Small and few frames: it is the slowest of all."""
    arguments = sd_arguments(ask) | ask.extent((64, 64), (72, 56))
    return arguments | {"num_frames": 3 if ask.size == "default" else 2}


def build_svd() -> DiffusionPipeline:
    unet = UNetSpatioTemporalConditionModel(
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 64),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=TEXT,
        num_attention_heads=2,
        num_frames=3,
    )
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32,) * 4, layers_per_block=1
    )
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            projection_dim=TEXT,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=224,
            patch_size=56,
        )
    )
    scheduler = EulerDiscreteScheduler(
        **BETAS,
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_type="continuous",
        timestep_spacing="leading",
        steps_offset=1,
    )
    parts = (randomise(vae), randomise(encoder), randomise(unet, damp_time=False), scheduler, CLIPImageProcessor())
    return quiet(StableVideoDiffusionPipeline(*parts))


def svd_arguments(ask: Ask) -> dict[str, Any]:
    """There is no text: the prompt is the picture."""
    arguments: dict[str, Any] = ask.extent((32, 32), (32, 48))
    pictures = picture(ask.prompt, 224, 224, ask.batch)
    return arguments | {
        "image": [_pil(each) for each in pictures] if ask.batch > 1 else _pil(pictures[0]),
        "num_frames": 3 if ask.size == "default" else 2,
        "max_guidance_scale": 3.0 if ask.guidance else 1.0,
    }


def _pil(image: torch.Tensor) -> Any:
    return VaeImageProcessor.numpy_to_pil(image.permute(1, 2, 0).numpy())[0]


UNET = (
    TinyPipeline("svd", build_svd, svd_arguments, "batched", video=True),
    TinyPipeline("animatediff", build_animatediff, animatediff_arguments, "batched", video=True),
    TinyPipeline("sdxl", build_sdxl, sdxl_arguments, "batched", video=False),
    TinyPipeline("sd", build_sd, sd_arguments, "batched", video=False),
)
"""The slowest come first: of a test's cases the suite always runs the last one."""
