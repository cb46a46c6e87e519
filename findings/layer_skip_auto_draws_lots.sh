#!/usr/bin/env bash
# diffusers 0.42.1, LayerSkipConfig(indices=[...]) with its default fqn="auto", on a transformer with two stacks (Flux).
#
# "auto" takes the first name of a stack that the model has, and runs through the names in the order of a Python set of
# strings, which changes from one process to the next with the seed of Python's string hashes. So the same script skips
# double-stream blocks in one process and single-stream blocks in another, and PerturbedAttentionGuidance, which makes
# such a configuration of bare layer numbers, guides by another model: torch's seeds do not help. Name the stack.
#
# Seen: hash seed 0: single_transformer_blocks, 1: single_transformer_blocks, 2: transformer_blocks
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
cat > "$work/probe.py" <<'PYTHON'
from diffusers import FluxTransformer2DModel
from diffusers.hooks import LayerSkipConfig, apply_layer_skip

model = FluxTransformer2DModel(
    in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
    joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
)
apply_layer_skip(model, LayerSkipConfig(indices=[0]))
print({name.split(".")[0] for name, part in model.named_modules() if hasattr(part, "_diffusers_hook")}.pop())
PYTHON
stack() { PYTHONHASHSEED=$1 "$work/venv/bin/python" "$work/probe.py" 2>"$work/log" || cat "$work/log" >&2; }
seen="hash seed 0: $(stack 0), 1: $(stack 1), 2: $(stack 2)"
echo "$seen"
[ "$seen" = "hash seed 0: single_transformer_blocks, 1: single_transformer_blocks, 2: transformer_blocks" ]
