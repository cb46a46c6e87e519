"""Tiny text-to-image transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from tests.tiny.case import Ask, TinyPipeline, quiet
from tests.tiny.inputs import mask
from tests.tiny.weights import randomise

TEXT = 24
POOLED = 16

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.003, "beta_schedule": "scaled_linear"}
"""For models that predict the noise. The sigmas start near 2, not at the usual 14.6 or 157, because what
random weights predict is multiplied by the first sigma and latents of that size fit no tolerance of a test."""


def image_vae(channels: int = 16) -> AutoencoderKL:
    """Eight pixels to a latent, like the real ones."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=channels,
        norm_num_groups=2,
        scaling_factor=1.5,
        shift_factor=0.1,
        use_quant_conv=channels == 4,
        use_post_quant_conv=channels == 4,
    )
    return certain(randomise(model))


def certain(vae: AutoencoderKL) -> AutoencoderKL:
    """Narrows the posterior to almost a point.

    A picture then has one encoding, however many random numbers the samples before it in the batch have used.
    """
    last = vae.quant_conv or vae.encoder.conv_out
    with torch.no_grad():
        half = last.out_channels // 2
        last.weight[half:] = 0
        last.bias[half:] = -30
    return vae


def flux_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def flux_transformer() -> FluxTransformer2DModel:
    model = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return randomise(model)


def build_flux() -> DiffusionPipeline:
    return quiet(FluxPipeline(flux_scheduler(), image_vae(), None, None, None, None, flux_transformer()))


def flux_arguments(ask: Ask) -> dict[str, Any]:
    arguments: dict[str, Any] = ask.extent((128, 128), (80, 112))
    return arguments | {
        "guidance_scale": 3.5 if ask.guidance else 1.0,
        "prompt_embeds": ask.words(8, TEXT),
        "pooled_prompt_embeds": ask.words(POOLED),
    }


def flux_true_guidance_arguments(ask: Ask) -> dict[str, Any]:
    """Two calls per step on top of the embedded scale, as with a de-distilled Flux."""
    arguments = flux_arguments(replace(ask, guidance=True))
    if ask.guidance:
        arguments["true_cfg_scale"] = 3.0
        arguments["negative_prompt_embeds"] = ask.negative_words(8, TEXT)
        arguments["negative_pooled_prompt_embeds"] = ask.negative_words(POOLED)
    return arguments


def sd3_transformer() -> SD3Transformer2DModel:
    model = SD3Transformer2DModel(
        sample_size=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        caption_projection_dim=32,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return randomise(model)


def build_sd3() -> DiffusionPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return quiet(
        StableDiffusion3Pipeline(sd3_transformer(), scheduler, image_vae(), None, None, None, None, None, None)
    )


def sd3_arguments(ask: Ask) -> dict[str, Any]:
    arguments: dict[str, Any] = ask.extent((128, 128), (80, 112))
    arguments |= {"guidance_scale": 3.0 if ask.guidance else 1.0}
    arguments |= {
        "prompt_embeds": ask.words(8, TEXT),
        "pooled_prompt_embeds": ask.words(POOLED),
    }
    if ask.guidance:
        arguments["negative_prompt_embeds"] = ask.negative_words(8, TEXT)
        arguments["negative_pooled_prompt_embeds"] = ask.negative_words(POOLED)
    return arguments


def build_qwen_image() -> DiffusionPipeline:
    transformer = QwenImageTransformer2DModel(
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return quiet(QwenImagePipeline(flux_scheduler(), randomise(vae), None, None, randomise(transformer)))


def qwen_image_arguments(ask: Ask) -> dict[str, Any]:
    """The negative prompt is shorter than the prompt, as it is in practice."""
    arguments = ask.extent((128, 128), (80, 112)) | {"true_cfg_scale": 3.0 if ask.guidance else 1.0}
    arguments |= {"prompt_embeds": ask.words(8, TEXT), "prompt_embeds_mask": mask(ask.batch, 8)}
    if ask.guidance:
        arguments["negative_prompt_embeds"] = ask.negative_words(5, TEXT)
        arguments["negative_prompt_embeds_mask"] = mask(ask.batch, 5)
    return arguments


def build_pixart() -> DiffusionPipeline:
    """Twice as many output channels as latent channels: the pipeline throws the predicted variance away."""
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        cross_attention_dim=32,
        sample_size=16,
        caption_channels=TEXT,
        norm_num_groups=1,
        use_additional_conditions=False,
    )
    scheduler = DPMSolverMultistepScheduler(**BETAS)
    return quiet(PixArtSigmaPipeline(None, None, image_vae(4), randomise(transformer), scheduler))


def build_sana() -> DiffusionPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=TEXT,
        sample_size=16,
    )
    vae = AutoencoderDC(
        latent_channels=8,
        attention_head_dim=4,
        encoder_block_out_channels=(8,) * 6,
        decoder_block_out_channels=(8,) * 6,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
    )
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return quiet(SanaPipeline(None, None, randomise(vae), randomise(transformer), scheduler))


def pixart_arguments(ask: Ask) -> dict[str, Any]:
    return ask.extent((128, 128), (80, 112)) | binned_arguments(ask)


def sana_arguments(ask: Ask) -> dict[str, Any]:
    return ask.extent((256, 256), (160, 224)) | binned_arguments(ask)


def binned_arguments(ask: Ask) -> dict[str, Any]:
    """For pipelines that would replace a tiny size by the nearest one that the real model was trained on."""
    arguments: dict[str, Any] = {
        "use_resolution_binning": False,
        "guidance_scale": 3.0 if ask.guidance else 1.0,
    }
    arguments |= {"prompt_embeds": ask.words(8, TEXT), "prompt_attention_mask": mask(ask.batch, 8, padding=1)}
    if ask.guidance:
        arguments["negative_prompt_embeds"] = ask.negative_words(8, TEXT)
        arguments["negative_prompt_attention_mask"] = mask(ask.batch, 8, padding=4)
        # Its default is "", which cannot go together with embeddings.
        arguments["negative_prompt"] = None
    return arguments


def build_z_image() -> DiffusionPipeline:
    transformer = ZImageTransformer2DModel(
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT,
        axes_dims=[4, 6, 6],
    )
    return quiet(ZImagePipeline(flux_scheduler(), image_vae(), None, None, randomise(transformer)))


def z_image_arguments(ask: Ask) -> dict[str, Any]:
    """Prompts are lists of tensors of unequal length; guidance is on above scale 0, not above 1."""
    arguments: dict[str, Any] = ask.extent((128, 128), (80, 112))
    arguments |= {"guidance_scale": 3.0 if ask.guidance else 0.0}
    arguments["prompt_embeds"] = list(ask.words(8, TEXT))
    if ask.guidance:
        arguments["negative_prompt_embeds"] = list(ask.negative_words(5, TEXT))
    return arguments


IMAGE = (
    TinyPipeline("flux", build_flux, flux_arguments, "embedded", video=False),
    TinyPipeline("flux_true_guidance", build_flux, flux_true_guidance_arguments, "two calls", video=False),
    TinyPipeline("sd3", build_sd3, sd3_arguments, "batched", video=False),
    TinyPipeline("qwen_image", build_qwen_image, qwen_image_arguments, "two calls", video=False),
    TinyPipeline("pixart", build_pixart, pixart_arguments, "batched", video=False),
    TinyPipeline("sana", build_sana, sana_arguments, "batched", video=False),
    TinyPipeline("z_image", build_z_image, z_image_arguments, "batched", video=False),
)
