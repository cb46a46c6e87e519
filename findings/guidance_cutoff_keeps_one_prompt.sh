#!/usr/bin/env bash
# diffusers 0.42.1, the callbacks that switch guidance off in the middle of a run (SDCFGCutoffCallback,
# SD3CFGCutoffCallback), with two prompts.
#
# Of the embeddings, which hold all negative prompts and then all prompts, they keep the last row for "the conditional
# text tokens". That is the prompt where there is one. Of two Stable Diffusion raises in the next step, also for two
# images of one prompt, because latents and embeddings differ in number. Stable Diffusion 3 broadcasts the one row: the
# first image goes on with the second image's prompt, and no word is said. SDXL's callbacks are written alike.
#
# Seen:
#   Stable Diffusion, two images of one prompt: runs; with the callback: RuntimeError
#   Stable Diffusion 3, two prompts, each image as alone: True, True; with the callback: False, True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.callbacks import SD3CFGCutoffCallback, SDCFGCutoffCallback

torch.manual_seed(0)
vae = AutoencoderKL(
    block_out_channels=(8,), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",),
    up_block_types=("UpDecoderBlock2D",), latent_channels=4,
)
sd3 = StableDiffusion3Pipeline(
    transformer=SD3Transformer2DModel(
        sample_size=16, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=16, pos_embed_max_size=16,
    ).eval(),
    scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=None, tokenizer=None, text_encoder_2=None,
    tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
)
sd = StableDiffusionPipeline(
    unet=UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32, norm_num_groups=4,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval(),
    scheduler=DDIMScheduler(), vae=vae, text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None,
    requires_safety_checker=False,
)
PROMPTS = {name: torch.randn(2, 333, 32) * 30 for name in ("prompt_embeds", "negative_prompt_embeds")}
POOLED = {name: torch.randn(2, 16) for name in ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")}


def images(pipe, callback, rows: list[int], given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Image i of these prompts, all from one noise."""
    pipe.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(0) for _ in rows]
    call = {name: value[rows] for name, value in given.items()}
    size = {"height": 16, "width": 16, "num_inference_steps": 4, "output_type": "latent"}
    return pipe(**call, **size, generator=noise, callback_on_step_end=callback).images


def runs(callback) -> str:
    try:
        images(sd, callback, [0, 0], PROMPTS)
    except RuntimeError:
        return "RuntimeError"
    return "runs"


def as_alone(callback) -> str:
    both = images(sd3, callback, [0, 1], PROMPTS | POOLED)
    alone = [images(sd3, callback, [row], PROMPTS | POOLED)[0] for row in (0, 1)]
    return ", ".join(str(torch.allclose(one, other, atol=1e-3)) for one, other in zip(both, alone))


with_callback = runs(SDCFGCutoffCallback(cutoff_step_ratio=0.0))
print(f"Stable Diffusion, two images of one prompt: {runs(None)}; with the callback: {with_callback}")
with_callback = as_alone(SD3CFGCutoffCallback(cutoff_step_ratio=0.0))
print(f"Stable Diffusion 3, two prompts, each image as alone: {as_alone(None)}; with the callback: {with_callback}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "Stable Diffusion, two images of one prompt: runs; with the callback: RuntimeError
Stable Diffusion 3, two prompts, each image as alone: True, True; with the callback: False, True" ]
