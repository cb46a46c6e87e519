#!/usr/bin/env bash
# diffusers 0.42.1: group offloading to a folder (`offload_to_disk_path`) of a pipeline with two denoisers of one class.
#
# `pipe.enable_group_offload(offload_to_disk_path=...)` gives all components the same folder. Files in it are named by
# a hash of the modules' names within their component ("blocks_0_0"), and a group whose file is there already is taken
# for written. So the second denoiser (`transformer_2` of Wan 2.2) writes nothing, lets its own weights go, and reads
# those of the first: without an error or a warning, both experts are one from then on. Offloaded to memory, or each
# into a folder of its own, both stay what they are.
#
# Seen:
#   in memory: transformer_2 as before
#   a folder for each: transformer_2 as before
#   one folder: transformer_2 computes what transformer computes
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 ftfy==6.3.1
seen=$(WORK="$work" "$work/venv/bin/python" - <<'PYTHON' 2>/dev/null | grep -E ": .* (before|computes)$"
import os

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

WORK = os.environ["WORK"]
HOW = {"onload_device": torch.device("cpu"), "offload_type": "block_level", "num_blocks_per_group": 1}


def model(seed: int) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2}
    sizes = {"text_dim": 32, "freq_dim": 32, "ffn_dim": 32, "rope_max_seq_len": 32}
    return WanTransformer3DModel(patch_size=(1, 2, 2), in_channels=16, out_channels=16, **heads, **sizes).eval()


def pipeline() -> WanPipeline:
    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=model(1),
        transformer_2=model(2),
        boundary_ratio=0.5,
    )


@torch.no_grad()
def output(denoiser: WanTransformer3DModel) -> torch.Tensor:
    torch.manual_seed(0)
    return denoiser(torch.randn(1, 16, 1, 4, 4), torch.tensor([500]), torch.randn(1, 8, 32), return_dict=False)[0]


known = {"as before": output(model(2)), "computes what transformer computes": output(model(1))}


def told(found: torch.Tensor) -> str:
    return next((words for words, right in known.items() if torch.equal(found, right)), "neither computes")


pipe = pipeline()
pipe.enable_group_offload(**HOW)
print("in memory: transformer_2", told(output(pipe.transformer_2)))
pipe = pipeline()
pipe.transformer.enable_group_offload(offload_to_disk_path=f"{WORK}/one", **HOW)
pipe.transformer_2.enable_group_offload(offload_to_disk_path=f"{WORK}/two", **HOW)
print("a folder for each: transformer_2", told(output(pipe.transformer_2)))
pipe = pipeline()
pipe.enable_group_offload(offload_to_disk_path=f"{WORK}/all", **HOW)
print("one folder: transformer_2", told(output(pipe.transformer_2)))
PYTHON
)
echo "$seen"
[ "$seen" = "in memory: transformer_2 as before
a folder for each: transformer_2 as before
one folder: transformer_2 computes what transformer computes" ]
