#!/usr/bin/env bash
# cache-dit 1.5.3 with diffusers 0.42.1: a transformer that is offloaded in groups, and then cache-dit on and off.
#
# diffusers' group offloading puts a functools.partial in place of the transformer's `forward`. enable_cache keeps what
# it finds there, and the pipeline runs; disable_cache asks it for a method's `__get__`, which a partial does not have
# up to Python 3.13, raises AttributeError, and leaves the cache on. Put on in the other order, or without offloading,
# cache-dit comes off.
#
# Seen: alone: on runs, off | offloaded before: on runs, AttributeError | offloaded after: on runs, off
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    cache-dit==1.5.3 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 ftfy==6.3.1
seen=$("$work/venv/bin/python" - <<'PYTHON' 2>/dev/null | grep -E "^alone"
import cache_dit
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel


def pipeline() -> WanPipeline:
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=3,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    pipe = WanPipeline(None, None, vae, FlowMatchEulerDiscreteScheduler(), transformer.eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def offload(pipe: WanPipeline) -> None:
    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    )


def tried(when: str) -> str:
    pipe, words = pipeline(), torch.ones(1, 4, 16)
    if when == "before":
        offload(pipe)
    cache_dit.enable_cache(pipe, cache_config=cache_dit.DBCacheConfig(Fn_compute_blocks=1, Bn_compute_blocks=0))
    if when == "after":
        offload(pipe)
    size = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 3, "output_type": "latent"}
    pipe(prompt_embeds=words, negative_prompt_embeds=-words, **size)
    try:
        cache_dit.disable_cache(pipe)
    except Exception as error:
        return f"on runs, {type(error).__name__}"
    return "on runs, off"


print(f"alone: {tried('')} | offloaded before: {tried('before')} | offloaded after: {tried('after')}")
PYTHON
)
echo "$seen"
[ "$seen" = "alone: on runs, off | offloaded before: on runs, AttributeError | offloaded after: on runs, off" ]
