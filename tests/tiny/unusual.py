"""Tiny pipelines that answer or step unlike all others. They are not among `TINY`, whose tests ask for a plain loop."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AutoencoderKLQwenImage21,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMapEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Transformer3DModel,
    StableDiffusionPanoramaPipeline,
    UNet2DConditionModel,
)

from tests.tiny.case import Ask, TinyPipeline, quiet
from tests.tiny.image import BETAS, TEXT, flux_scheduler, image_vae
from tests.tiny.unet import SHAPE, sd_arguments
from tests.tiny.video import wan_arguments, wan_scheduler, wan_vae
from tests.tiny.weights import randomise


class Processor:
    """As much of a tokenizer as the constructor of Qwen-Image 2.1 asks for."""

    @property
    def tokenizer(self) -> Processor:
        return self

    def apply_chat_template(self, *_: Any, **__: Any) -> list[list[int]]:
        return [[0]]

    def encode(self, _: str) -> list[int]:
        return [0]


def build_qwen_image21() -> DiffusionPipeline:
    """Its first answer is longer than the others: the prompt's tokens fill a key-value cache (`use_kv_cache`)."""
    transformer = QwenImage21Transformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=TEXT,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage21(base_dim=4, decoder_base_dim=4, z_dim=16, dim_mult=[1] * 5, num_res_blocks=1)
    return quiet(QwenImage21Pipeline(flux_scheduler(), vae, None, Processor(), randomise(transformer)))


def qwen_image21_arguments(ask: Ask) -> dict[str, Any]:
    arguments = ask.extent((128, 128), (96, 160)) | {"true_cfg_scale": 3.0 if ask.guidance else 1.0}
    arguments |= {"prompt_embeds": ask.words(8, TEXT)}
    if ask.guidance:
        arguments["negative_prompt_embeds"] = ask.negative_words(5, TEXT)
    return arguments


def build_skyreels_df() -> DiffusionPipeline:
    """Diffusion forcing: each latent frame is stepped by a copy of the scheduler."""
    transformer = SkyReelsV2Transformer3DModel(
        num_attention_heads=2, attention_head_dim=16, text_dim=TEXT, freq_dim=32, ffn_dim=64, num_layers=3
    )
    return quiet(SkyReelsV2DiffusionForcingPipeline(None, None, randomise(transformer), wan_vae(), wan_scheduler()))


def build_anyflow_far() -> DiffusionPipeline:
    """A chunk of frames after the other; each answer comes with a key-value cache, a dictionary by layer."""
    transformer = AnyFlowFARTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=TEXT,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        chunk_partition=(1, 2),
    )
    return quiet(AnyFlowFARPipeline(None, None, randomise(transformer), wan_vae(), FlowMapEulerDiscreteScheduler()))


def build_panorama() -> DiffusionPipeline:
    """Steps every view of a step with a state of the scheduler that it copies out of it and writes back into it."""
    scheduler = DDIMScheduler(**BETAS, steps_offset=1, clip_sample=False)
    unet = UNet2DConditionModel(  # a view is 64 x 64, which is large for attention
        **SHAPE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
    )
    return quiet(
        StableDiffusionPanoramaPipeline(
            image_vae(4), None, None, randomise(unet), scheduler, None, None, requires_safety_checker=False
        )
    )


def panorama_arguments(ask: Ask) -> dict[str, Any]:
    return sd_arguments(ask) | {"height": 512, "width": 576}


def skyreels_arguments(ask: Ask) -> dict[str, Any]:
    return wan_arguments(ask) | {"prompt": None, "num_frames": 17}


UNUSUAL = {
    tiny.name: tiny
    for tiny in (
        TinyPipeline("qwen_image21", build_qwen_image21, qwen_image21_arguments, "two calls", video=False),
        TinyPipeline("skyreels_df", build_skyreels_df, skyreels_arguments, "two calls", video=True),
        TinyPipeline("anyflow_far", build_anyflow_far, wan_arguments, "batched", video=True),
        TinyPipeline("panorama", build_panorama, panorama_arguments, "batched", video=False),
    )
}
