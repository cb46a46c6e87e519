#!/usr/bin/env bash
# diffusers 0.42.1, enable_cache on the transformer of a modular pipeline (LTX): what a call gives after another one.
#
# LTXPipeline empties the caches' state at the end of each call, the modular LTX pipeline never does: TaylorSeer goes on
# counting steps and extrapolates from where the run before ended, and first block cache compares the first step with
# the run before, be that of another prompt or seed. So the same call gives other latents after another call than on a
# pipeline just built, without an error or a warning. Emptied by hand between calls it does not
# (pipe.transformer._reset_stateful_cache(), which is private).
#
# Seen: latents of a call after another one against those of the same call on a new pipeline
#   LTXPipeline: plain: same, TaylorSeer: same, first block cache: same
#   modular: plain: same, TaylorSeer: other, first block cache: other
#   modular, emptied by hand: plain: same, TaylorSeer: same, first block cache: same
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 tokenizers==0.23.3 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    TaylorSeerCacheConfig,
)
from diffusers.modular_pipelines.ltx import LTXAutoBlocks
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

CACHES = {
    "plain": None,
    "TaylorSeer": TaylorSeerCacheConfig(
        cache_interval=3, disable_cache_before_step=2, cache_identifiers=[".*attn1"], taylor_factors_dtype=torch.float32
    ),
    "first block cache": FirstBlockCacheConfig(threshold=1.0),
}


def parts() -> dict:
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "dog": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    text = T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        caption_channels=16, num_layers=3,
    )
    for weight in transformer.parameters():  # so that steps differ by more than rounding
        torch.nn.init.normal_(weight, std=0.3)
    return {
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>"),
        "text_encoder": T5EncoderModel(text).eval(),
        "transformer": transformer.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }


def standard():
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    pipe = LTXPipeline(vae=vae, **parts())
    return pipe, lambda **call: pipe(output_type="latent", **call).frames


def modular():
    blocks = LTXAutoBlocks()
    blocks.sub_blocks.pop("decode")
    pipe = blocks.init_pipeline()
    pipe.update_components(**parts())
    return pipe, lambda **call: pipe(output="latents", **call)


def told(make, cache: str, by_hand: bool = False) -> str:
    found = []
    for seeds in ((1,), (0, 1)):
        pipe, call = make()
        pipe.set_progress_bar_config(disable=True)
        if CACHES[cache] is not None:
            pipe.transformer.enable_cache(CACHES[cache])
        for seed in seeds:
            size = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 6}
            latents = call(prompt="a dog", generator=torch.Generator().manual_seed(seed), **size)
            if by_hand:
                pipe.transformer._reset_stateful_cache()
        found.append(latents)
    return f"{cache}: {'same' if torch.allclose(*found, atol=1e-4) else 'other'}"


print("LTXPipeline: " + ", ".join(told(standard, cache) for cache in CACHES))
print("modular: " + ", ".join(told(modular, cache) for cache in CACHES))
print("modular, emptied by hand: " + ", ".join(told(modular, cache, by_hand=True) for cache in CACHES))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "LTXPipeline: plain: same, TaylorSeer: same, first block cache: same
modular: plain: same, TaylorSeer: other, first block cache: other
modular, emptied by hand: plain: same, TaylorSeer: same, first block cache: same" ]
