"""Tiny pipelines whose guidance is an object of its own. The scale is the guider's, not an argument of the call, so
they are not among `TINY`, whose pipelines can be asked for guidance and none.
"""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLHunyuanImage,
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from diffusers.guiders import AdaptiveProjectedMixGuidance

from tests.tiny.case import Ask, TinyPipeline, quiet
from tests.tiny.inputs import mask
from tests.tiny.weights import randomise

TEXT, TOKENS = 24, 6
WIDTH: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16, "num_refiner_layers": 1}


def build_hunyuan_video_15() -> DiffusionPipeline:
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_layers=2,
        text_embed_dim=TEXT,
        text_embed_2_dim=TEXT,
        image_embed_dim=8,
        rope_axes_dim=(4, 6, 6),
        target_size=64,
        task_type="t2v",
        **WIDTH,
    )
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1)
    scheduler, guider = FlowMatchEulerDiscreteScheduler(shift=3.0), ClassifierFreeGuidance(guidance_scale=3.0)
    pipe = HunyuanVideo15Pipeline(None, None, randomise(transformer), randomise(vae), scheduler, None, None, guider)
    pipe.vision_num_semantic_tokens = 4
    return quiet(pipe)


def build_hunyuan_image() -> DiffusionPipeline:
    """Its guider mixes two rules and has a momentum."""
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        patch_size=(1, 1),
        text_embed_dim=TEXT,
        text_embed_2_dim=TEXT,
        rope_axes_dim=(8, 8),
        **WIDTH,
    )
    vae = AutoencoderKLHunyuanImage(3, 3, 4, (32, 32, 32, 32), 1, 8, 32)
    guider = AdaptiveProjectedMixGuidance(guidance_scale=3.5, adaptive_projected_guidance_start_step=3)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    return quiet(
        HunyuanImagePipeline(scheduler, randomise(vae), None, None, None, None, randomise(transformer), guider=guider),
    )


def words(ask: Ask) -> dict[str, Any]:
    arguments: dict[str, Any] = ask.extent((64, 64), (48, 80))
    for name, number in (("", 0), ("_2", 500)):
        other = Ask(ask.batch, prompt=ask.prompt + number)
        arguments[f"prompt_embeds{name}"] = other.words(TOKENS, TEXT)
        arguments[f"negative_prompt_embeds{name}"] = other.negative_words(TOKENS, TEXT)
        arguments[f"prompt_embeds_mask{name}"] = mask(ask.batch, TOKENS)
        arguments[f"negative_prompt_embeds_mask{name}"] = mask(ask.batch, TOKENS)
    return arguments


GUIDERS = {
    tiny.name: tiny
    for tiny in (
        TinyPipeline(
            "hunyuan_video_15",
            build_hunyuan_video_15,
            lambda ask: words(ask) | {"num_frames": 9},
            "two calls",
            video=True,
        ),
        TinyPipeline("hunyuan_image", build_hunyuan_image, words, "two calls", video=False),
    )
}
