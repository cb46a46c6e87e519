#!/usr/bin/env bash
# cache-dit 1.5.3 with diffusers 0.42.1: two pipeline objects of one class with its cache on, and the first switched off.
#
# enable_cache puts its wrapper on the pipeline's class, and disable_cache takes the wrapper's state off the object but
# leaves a wrapper on the class where a second object was enabled meanwhile. From then on every pipeline of that class
# raises AttributeError when it is called: the one that was switched off, the one that is still on, and one that was
# never given to cache-dit. With a single pipeline object enabling and disabling works.
#
# Seen:
#   one enabled and disabled: runs, a bystander: runs
#   first of two disabled: AttributeError, second: AttributeError, a bystander: AttributeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    cache-dit==1.5.3 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 ftfy==6.3.1
seen=$("$work/venv/bin/python" - <<'PYTHON' 2>/dev/null | grep -E "^(one|first) "
import cache_dit
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel


def pipeline() -> WanPipeline:
    heads = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 4}
    sizes = {"text_dim": 32, "freq_dim": 32, "ffn_dim": 32, "rope_max_seq_len": 32}
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=WanTransformer3DModel(patch_size=(1, 2, 2), in_channels=16, out_channels=16, **heads, **sizes),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def outcome(pipe: WanPipeline) -> str:
    words = torch.ones(1, 8, 32)
    size = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 4}
    try:
        pipe(prompt_embeds=words, negative_prompt_embeds=-words, output_type="latent", **size)
    except Exception as error:
        return type(error).__name__
    return "runs"


config = cache_dit.DBCacheConfig(Fn_compute_blocks=1, Bn_compute_blocks=0)
first, second, bystander = pipeline(), pipeline(), pipeline()
cache_dit.enable_cache(first, cache_config=config)
cache_dit.disable_cache(first)
print(f"one enabled and disabled: {outcome(first)}, a bystander: {outcome(bystander)}")
cache_dit.enable_cache(first, cache_config=config)
cache_dit.enable_cache(second, cache_config=config)
cache_dit.disable_cache(first)
print(f"first of two disabled: {outcome(first)}, second: {outcome(second)}, a bystander: {outcome(bystander)}")
PYTHON
)
echo "$seen"
[ "$seen" = "one enabled and disabled: runs, a bystander: runs
first of two disabled: AttributeError, second: AttributeError, a bystander: AttributeError" ]
