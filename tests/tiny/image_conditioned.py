"""Tiny image transformers that are given a picture as well: ControlNet, image to image, editing."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
)

from tests.tiny.case import Ask, TinyPipeline, quiet
from tests.tiny.image import (
    POOLED,
    TEXT,
    flux_arguments,
    flux_scheduler,
    flux_transformer,
    image_vae,
    sd3_arguments,
    sd3_transformer,
)
from tests.tiny.inputs import picture
from tests.tiny.weights import randomise

TEXT_ENCODERS = (None, None, None, None)


def build_flux_controlnet() -> DiffusionPipeline:
    controlnet = FluxControlNetModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=True,
        axes_dims_rope=[4, 6, 6],
    )
    return quiet(
        FluxControlNetPipeline(
            flux_scheduler(), image_vae(), *TEXT_ENCODERS, flux_transformer(), randomise(controlnet, seed=2)
        )
    )


def build_flux_img2img() -> DiffusionPipeline:
    return quiet(FluxImg2ImgPipeline(flux_scheduler(), image_vae(), *TEXT_ENCODERS, flux_transformer()))


def build_flux_kontext() -> DiffusionPipeline:
    return quiet(FluxKontextPipeline(flux_scheduler(), image_vae(), *TEXT_ENCODERS, flux_transformer()))


def build_sd3_controlnet() -> DiffusionPipeline:
    controlnet = SD3ControlNetModel(
        sample_size=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        caption_projection_dim=32,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return quiet(
        StableDiffusion3ControlNetPipeline(
            sd3_transformer(),
            scheduler,
            image_vae(),
            *(None,) * 6,
            controlnet=randomise(controlnet, seed=2),
        )
    )


def flux_controlnet_arguments(ask: Ask) -> dict[str, Any]:
    arguments = flux_arguments(ask)
    return arguments | {"control_image": _picture(ask, arguments)}


def flux_img2img_arguments(ask: Ask) -> dict[str, Any]:
    """A strength of 0.75: the first quarter of the steps is never run."""
    arguments = flux_arguments(ask)
    return arguments | {"image": _picture(ask, arguments), "strength": 0.75}


def flux_kontext_arguments(ask: Ask) -> dict[str, Any]:
    """The picture's tokens follow those of the latents: the denoiser returns more than the pipeline keeps."""
    arguments = flux_arguments(ask)
    area = arguments["height"] * arguments["width"]
    return arguments | {"image": _picture(ask, arguments), "max_area": area, "_auto_resize": False}


def sd3_controlnet_arguments(ask: Ask) -> dict[str, Any]:
    arguments = sd3_arguments(ask)
    return arguments | {"control_image": _picture(ask, arguments)}


def _picture(ask: Ask, arguments: dict[str, Any]) -> torch.Tensor:
    """One picture for all samples, repeated so that each is encoded with a generator of its own."""
    return picture(0, arguments["height"], arguments["width"]).repeat(ask.batch, 1, 1, 1)


IMAGE_CONDITIONED = (
    TinyPipeline("flux_controlnet", build_flux_controlnet, flux_controlnet_arguments, "embedded", video=False),
    TinyPipeline("flux_img2img", build_flux_img2img, flux_img2img_arguments, "embedded", video=False),
    TinyPipeline("flux_kontext", build_flux_kontext, flux_kontext_arguments, "embedded", video=False),
    TinyPipeline("sd3_controlnet", build_sd3_controlnet, sd3_controlnet_arguments, "batched", video=False),
)
