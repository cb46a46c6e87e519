#!/usr/bin/env bash
# DeepCache 0.1.1 with diffusers 0.42.1: image-to-image calls of different strength while DeepCacheSDHelper is enabled.
#
# It counts steps from the timestep at which the first call began, and keeps that and the features of the last call. A
# call of another strength begins at another timestep, and where the two are not a multiple of the cache interval apart,
# its first step is taken for one to skip: it is answered with the features of the call before, be they of another
# picture. No error, no warning. helper.disable() and enable() between calls help.
#
# Seen: interval 3, 10 steps, a call of strength 0.5 on another picture and then
#   strength 0.5: latents as on a new pipeline
#   strength 0.8: latents as on a new pipeline
#   strength 0.7: other latents
#   strength 0.7, enabled anew before it: latents as on a new pipeline
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    DeepCache==0.1.1 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from DeepCache import DeepCacheSDHelper
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel

pictures = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
words = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1))


def pipeline():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=2,
    )
    pipe = StableDiffusionImg2ImgPipeline(
        vae=vae.eval(), text_encoder=None, tokenizer=None, unet=unet.eval(), scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=3, cache_branch_id=0)
    helper.enable()

    def call(picture: torch.Tensor, strength: float) -> torch.Tensor:
        return pipe(
            prompt_embeds=words, negative_prompt_embeds=-words, image=picture, strength=strength,
            num_inference_steps=10, output_type="latent", generator=torch.Generator().manual_seed(2),
        ).images

    return helper, call


def told(strength: float, anew: bool = False) -> str:
    _, call = pipeline()
    right = call(pictures[0], strength)
    helper, call = pipeline()
    call(pictures[1], 0.5)
    if anew:
        helper.disable()
        helper.enable()
    same = torch.allclose(call(pictures[0], strength), right, atol=1e-4)
    return "latents as on a new pipeline" if same else "other latents"


for strength in (0.5, 0.8, 0.7):
    print(f"strength {strength}: {told(strength)}")
print(f"strength 0.7, enabled anew before it: {told(0.7, anew=True)}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "strength 0.5: latents as on a new pipeline
strength 0.8: latents as on a new pipeline
strength 0.7: other latents
strength 0.7, enabled anew before it: latents as on a new pipeline" ]
