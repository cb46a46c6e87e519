#!/usr/bin/env bash
# diffusers 0.42.1 with transformers 5.14.1: StableDiffusionImg2ImgPipeline with a strength so low that strength times
# steps is below 1.
#
# Strength may be anything from 0 to 1, and a little of it is asked for where a picture shall hardly change. 4 steps at
# 0.2 are no step, and what comes back is neither the picture that was given nor an error that says so: as latents there
# are none, a batch of zero, in silence; decoded, the error is of a tensor that cannot be given a shape. The inpainting
# pipeline says which numbers to change. Ask for at least 1 / strength steps.
#
# Seen:
#   image to image: 5 steps (1, 4, 32, 32), 4 steps (0, 4, 32, 32), 4 steps decoded RuntimeError
#   inpainting: 4 steps ValueError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check transformers==5.14.1 pillow==12.0.0
seen=$("$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)

STRENGTH = 0.2
SMALL = {"norm_num_groups": 2, "block_out_channels": (4, 4)}
KINDS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def parts():
    unet = UNet2DConditionModel(
        sample_size=64, layers_per_block=1, attention_head_dim=2, cross_attention_dim=8, **SMALL,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return AutoencoderKL(latent_channels=4, **SMALL, **KINDS), None, None, unet, DDIMScheduler(), None, None


def made(pipe, steps, kind, **given):
    pipe.set_progress_bar_config(disable=True)
    words = {"prompt_embeds": torch.ones(1, 4, 8), "negative_prompt_embeds": torch.zeros(1, 4, 8)}
    try:
        pictures = pipe(strength=STRENGTH, num_inference_steps=steps, output_type=kind, **words, **given).images
        return tuple(pictures.shape)
    except (RuntimeError, ValueError) as error:
        return type(error).__name__


torch.manual_seed(0)
picture = torch.rand(1, 3, 64, 64)
image = StableDiffusionImg2ImgPipeline(*parts(), requires_safety_checker=False)
paint = StableDiffusionInpaintPipeline(*parts(), requires_safety_checker=False)
five, four = (made(image, steps, "latent", image=picture) for steps in (5, 4))
decoded = made(image, 4, "np", image=picture)
print(f"image to image: 5 steps {five}, 4 steps {four}, 4 steps decoded {decoded}")
whole = {"image": picture, "mask_image": torch.ones(1, 1, 64, 64), "height": 64, "width": 64}
print(f"inpainting: 4 steps {made(paint, 4, 'latent', **whole)}")
PYTHON
)
echo "$seen"
[ "$seen" = "image to image: 5 steps (1, 4, 32, 32), 4 steps (0, 4, 32, 32), 4 steps decoded RuntimeError
inpainting: 4 steps ValueError" ]
