"""Tiny U-Nets that are given more than a prompt: ControlNet's residuals, an IP-Adapter's pictures.

They are variants of pipelines in `TINY` and not among them, because they concern what halves a batch and little else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)

from tests.tiny.case import Ask, TinyPipeline, quiet
from tests.tiny.image import POOLED, TEXT
from tests.tiny.inputs import embeddings, picture
from tests.tiny.unet import (
    SHAPE,
    UNET,
    animatediff_arguments,
    build_animatediff,
    build_sd,
    build_sdxl,
    sd_arguments,
    sdxl_arguments,
)
from tests.tiny.weights import randomise

WIDTH = {name: value for name, value in SHAPE.items() if name != "sample_size"}
IMAGE = 24  # width of a picture's embedding


def controlnet(**more: Any) -> ControlNetModel:
    """It halves the picture three times, down to the size of the latents."""
    return randomise(ControlNetModel(**WIDTH, conditioning_embedding_out_channels=(8, 8, 8, 8), **more), seed=2)


def build_sd_controlnet() -> DiffusionPipeline:
    own = controlnet(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=2)
    parts = build_sd().components | {"controlnet": own}
    return quiet(StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False))


def build_sdxl_controlnet() -> DiffusionPipeline:
    own = controlnet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        attention_head_dim=2,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + POOLED,
    )
    parts = build_sdxl().components | {"controlnet": own}
    return quiet(StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False))


def build_animatediff_controlnet() -> DiffusionPipeline:
    """Frames are folded into the batch of the residuals."""
    own = controlnet(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=2)
    return quiet(AnimateDiffControlNetPipeline(**build_animatediff().components, controlnet=own))


def with_ip_adapter(build: Any) -> Any:
    def built() -> DiffusionPipeline:
        pipe = build()
        pipe.unet._load_ip_adapter_weights([adapter_weights(pipe.unet)])
        return pipe

    return built


def adapter_weights(unet: torch.nn.Module) -> dict[str, Any]:
    """The weights of an IP-Adapter with four tokens for each picture: a projection, and two more in each attention."""
    drawn = torch.Generator().manual_seed(4)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=drawn) * 0.3

    weights: dict[str, torch.Tensor] = {}
    crossing = [
        module for name, module in unet.named_modules() if name.endswith("attn2") and "motion_modules" not in name
    ]
    for number, attention in enumerate(crossing):
        for kind in ("k", "v"):
            weights[f"{2 * number + 1}.to_{kind}_ip.weight"] = random(attention.to_k.out_features, TEXT)
    projection = {"proj.weight": random(4 * TEXT, IMAGE), "proj.bias": random(4 * TEXT)}
    projection |= {"norm.weight": torch.ones(TEXT), "norm.bias": torch.zeros(TEXT)}
    return {"image_proj": projection, "ip_adapter": weights}


def _pictures(ask: Ask) -> dict[str, Any]:
    """Embeddings of a picture for each sample, in front of them those of no picture."""
    own = embeddings(ask.prompt + 700, ask.batch, 1, IMAGE)
    return {"ip_adapter_image_embeds": [torch.cat([torch.zeros_like(own), own]) if ask.guidance else own]}


def _controlled(arguments: Any, argument: str) -> Any:
    def answer(ask: Ask) -> dict[str, Any]:
        given = arguments(ask)
        control = picture(0, given["height"], given["width"])
        frames = [control] * given["num_frames"] if "num_frames" in given else control.repeat(ask.batch, 1, 1, 1)
        return given | {argument: frames}

    return answer


CONDITIONED: dict[str, TinyPipeline] = {
    tiny.name: tiny
    for tiny in (
        TinyPipeline("sd_controlnet", build_sd_controlnet, _controlled(sd_arguments, "image"), "batched", video=False),
        TinyPipeline(
            "sdxl_controlnet", build_sdxl_controlnet, _controlled(sdxl_arguments, "image"), "batched", video=False
        ),
        TinyPipeline(
            "animatediff_controlnet",
            build_animatediff_controlnet,
            _controlled(animatediff_arguments, "conditioning_frames"),
            "batched",
            video=True,
        ),
        *(
            replace(
                tiny,
                name=f"{tiny.name}_ip_adapter",
                make=with_ip_adapter(tiny.make),
                answer=lambda ask, own=tiny.answer: own(ask) | _pictures(ask),
            )
            for tiny in UNET
            if tiny.name != "svd"
        ),
    )
}
