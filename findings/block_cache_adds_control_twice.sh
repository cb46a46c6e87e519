#!/usr/bin/env bash
# diffusers 0.42.1, FirstBlockCacheConfig and MagCacheConfig on a transformer with control between blocks (Wan VACE).
#
# Both caches store what all blocks added to the hidden states, and in a skipped step add it at the first block; the
# other blocks hand on what they are given. What VACE's branch adds after a block is part of the stored sum, but it is
# added outside of the blocks, so it is added in skipped steps too: the control counts twice there, and nothing is said.
# Called a second time with the same inputs a cached model ought to give the same output, and it does where the scale of
# the control is 0. A ControlNet's residuals are added between the blocks in the same way.
#
# Seen:
#   first block cache: scale 0: second call the same: True, scale 1: second call the same: False
#   MagCache: scale 0: second call the same: True, scale 1: second call the same: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, WanVACETransformer3DModel

configs = {
    "first block cache": FirstBlockCacheConfig(threshold=0.5),
    "MagCache": MagCacheConfig(mag_ratios=[1.0] * 4, num_inference_steps=4, retention_ratio=0.0),
}


def model() -> WanVACETransformer3DModel:
    torch.manual_seed(0)
    found = WanVACETransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=4,
        rope_max_seq_len=32, vace_layers=[0, 2], vace_in_channels=96,
    )
    for block in found.vace_blocks:
        torch.nn.init.normal_(block.proj_out.weight, std=0.2)  # zero as the model is built, not so in a trained one
    return found.eval()


@torch.no_grad()
def same(config, scale: float) -> bool:
    transformer = model()
    transformer.enable_cache(config)
    torch.manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(1, 16, 1, 4, 4),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 4, 16),
        "control_hidden_states": torch.randn(1, 96, 1, 4, 4),
        "control_hidden_states_scale": torch.full((2,), scale),
    }
    outputs = []
    for _ in range(2):
        with transformer.cache_context("cond"):
            outputs.append(transformer(**inputs, return_dict=False)[0])
    return torch.allclose(*outputs, atol=1e-4)


for name, config in configs.items():
    print(f"{name}: " + ", ".join(f"scale {s}: second call the same: {same(config, float(s))}" for s in (0, 1)))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "first block cache: scale 0: second call the same: True, scale 1: second call the same: False
MagCache: scale 0: second call the same: True, scale 1: second call the same: False" ]
