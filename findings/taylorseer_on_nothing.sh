#!/usr/bin/env bash
# diffusers 0.42.1, enable_cache(TaylorSeerCacheConfig()) with no module named in it.
#
# Its documentation says that all attention-like modules are hooked then. The patterns for them end in "attn" and have
# to match a module's whole name, so they find "transformer_blocks.0.attn" (Flux), and no attention that is called
# "attn1": on Wan, LTX and CogVideoX nothing is hooked at all. enable_cache says nothing, `is_cache_enabled` answers
# True, and every step is computed in full. With names given (cache_identifiers=[".*attn1"]) they are hooked.
#
# Seen:
#   Flux enabled: True, attentions: 2, hooked: 2
#   Wan enabled: True, attentions: 4, hooked: 0
#   LTX enabled: True, attentions: 4, hooked: 0
#   CogVideoX enabled: True, attentions: 2, hooked: 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
from diffusers import (
    CogVideoXTransformer3DModel,
    FluxTransformer2DModel,
    LTXVideoTransformer3DModel,
    TaylorSeerCacheConfig,
    WanTransformer3DModel,
)
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention

heads = {"num_attention_heads": 2, "attention_head_dim": 16}
models = {
    "Flux": FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, joint_attention_dim=8, pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8), **heads,
    ),
    "Wan": WanTransformer3DModel(text_dim=16, freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32, **heads),
    "LTX": LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_layers=2, cross_attention_dim=32, caption_channels=16, **heads
    ),
    "CogVideoX": CogVideoXTransformer3DModel(in_channels=4, text_embed_dim=16, num_layers=2, sample_frames=5, **heads),
}
for name, model in models.items():
    model.enable_cache(TaylorSeerCacheConfig())
    attentions = [part for part in model.modules() if isinstance(part, (Attention, AttentionModuleMixin))]
    hooked = [part for part in model.modules() if hasattr(part, "_diffusers_hook") and part._diffusers_hook.hooks]
    print(f"{name} enabled: {model.is_cache_enabled}, attentions: {len(attentions)}, hooked: {len(hooked)}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "Flux enabled: True, attentions: 2, hooked: 2
Wan enabled: True, attentions: 4, hooked: 0
LTX enabled: True, attentions: 4, hooked: 0
CogVideoX enabled: True, attentions: 2, hooked: 0" ]
