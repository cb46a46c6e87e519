#!/usr/bin/env bash
# tgate 1.0.0 with diffusers 0.42.1: TgateSDLoader, which adds a call `pipe.tgate(...)` beside the pipeline's own.
#
# That call replaces the forward of every attention in the U-Net and leaves it in the state of its last step, where the
# attention to the prompt is taken from a cache. So from then on the pipeline's own call does so too: it draws the same
# picture for every prompt, to the bit, by the prompt of the call before. Nothing warns, and there is nothing to take it
# off with. Who compares the two calls must take the plain pictures first.
#
# Seen: pictures of the pipeline's own call for two prompts
#   before pipe.tgate: the same: False
#   after pipe.tgate: the same: True, as they were: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    tgate==1.0.0 DeepCache==0.1.1 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tgate import TgateSDLoader

torch.manual_seed(0)
pipe = StableDiffusionPipeline(
    vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4), text_encoder=None, tokenizer=None,
    unet=UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
    ),
    scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None, feature_extractor=None,
    requires_safety_checker=False,
)
pipe.set_progress_bar_config(disable=True)
pipe = TgateSDLoader(pipe)
dog, cat, negative = 5 * torch.randn(3, 1, 4, 8)
given = {
    "negative_prompt_embeds": negative, "latents": torch.randn(1, 4, 8, 8), "num_inference_steps": 8,
    "output_type": "latent",
}


def pictures() -> list[torch.Tensor]:
    return [pipe(prompt_embeds=prompt, **given).images for prompt in (dog, cat)]


before = pictures()
pipe.tgate(prompt_embeds=dog, gate_step=4, **given)
after = pictures()
print(f"before pipe.tgate: the same: {torch.equal(*before)}")
kept = any(torch.allclose(now, then, rtol=1e-3) for now, then in zip(after, before))
print(f"after pipe.tgate: the same: {torch.equal(*after)}, as they were: {kept}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "before pipe.tgate: the same: False
after pipe.tgate: the same: True, as they were: False" ]
