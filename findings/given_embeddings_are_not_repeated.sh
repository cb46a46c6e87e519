#!/usr/bin/env bash
# diffusers 0.42.1 with transformers 5.14.1: prompt_embeds of several prompts and num_images_per_prompt or
# num_videos_per_prompt, in WanPipeline and FluxPipeline.
#
# Words are repeated for each picture or clip that is asked of them, and so are embeddings in StableDiffusionPipeline.
# These two repeat what they encode themselves and nothing that they are given, while the noise is made for all: one
# embedding happens to fit all noise, two embeddings raise an error of shapes. Repeat them before the call, and leave
# the count at 1.
#
# Seen:
#   StableDiffusionPipeline: two of one: 2 outputs, two of two: 4 outputs
#   WanPipeline: two of one: 2 outputs, two of two: RuntimeError
#   FluxPipeline: two of one: 2 outputs, two of two: RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check transformers==5.14.1
seen=$("$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    WanPipeline,
    WanTransformer3DModel,
)

SMALL = {"norm_num_groups": 2, "block_out_channels": (4,)}


def stable_diffusion():
    unet = UNet2DConditionModel(
        layers_per_block=1, attention_head_dim=2, cross_attention_dim=8, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), **SMALL,
    )
    vae = AutoencoderKL(latent_channels=4, **SMALL)
    return StableDiffusionPipeline(vae, None, None, unet, DDIMScheduler(), None, None, requires_safety_checker=False)


def wan():
    transformer = WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=12, text_dim=8, freq_dim=16, ffn_dim=16, num_layers=1
    )
    vae = AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return WanPipeline(None, None, vae, FlowMatchEulerDiscreteScheduler(), transformer)


def flux():
    transformer = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )
    vae = AutoencoderKL(latent_channels=1, **SMALL)
    return FluxPipeline(FlowMatchEulerDiscreteScheduler(), vae, None, None, None, None, transformer)


def outcome(pipe, count, **call):
    if isinstance(pipe, FluxPipeline):
        call["pooled_prompt_embeds"] = torch.zeros(count, 8)
    else:
        call["guidance_scale"] = 1.0
    try:
        return f"{len(pipe(prompt_embeds=torch.zeros(count, 3, 8), output_type='latent', **call)[0])} outputs"
    except RuntimeError as error:
        return type(error).__name__


size = {"height": 16, "width": 16, "num_inference_steps": 2}
clip = {**size, "num_frames": 1, "num_videos_per_prompt": 2}
for build in (stable_diffusion, wan, flux):
    pipe = build()
    call = clip if build is wan else {**size, "num_images_per_prompt": 2}
    one, two = (outcome(pipe, count, **call) for count in (1, 2))
    print(f"{type(pipe).__name__}: two of one: {one}, two of two: {two}")
PYTHON
)
echo "$seen"
[ "$seen" = "StableDiffusionPipeline: two of one: 2 outputs, two of two: 4 outputs
WanPipeline: two of one: 2 outputs, two of two: RuntimeError
FluxPipeline: two of one: 2 outputs, two of two: RuntimeError" ]
