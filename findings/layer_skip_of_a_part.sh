#!/usr/bin/env bash
# diffusers 0.42.1, LayerSkipConfig(skip_attention=False, skip_ff=True), which skips the feed-forward of a block, on LTX.
#
# At dropout 1, which is the default, "the outputs of the skipped layers are completely ignored". A block adds what its
# feed-forward returns to the stream, so that a feed-forward without output adds nothing. The hook returns the layer's
# input instead, and the block adds the normed stream to itself: the block does more, not less, than it does with the
# layer. At a dropout below 1 the output itself is dropped, with that probability, so that the step from 0.99999999 to 1 is
# the largest of all. Guiders that skip layers (skip-layer guidance, AutoGuidance) take this for their weaker model.
#
# Seen: relative distance of the model's output from that with the feed-forward's last layer at zero
#   the model as it is: 0.12
#   skipped at dropout 0.99999999: 0.00
#   skipped at dropout 1: 0.69
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import LTXVideoTransformer3DModel
from diffusers.hooks import LayerSkipConfig, apply_layer_skip

torch.set_grad_enabled(False)
given = torch.Generator().manual_seed(1)
latents, words = torch.randn(1, 16, 8, generator=given), torch.randn(1, 4, 16, generator=given)


def model() -> LTXVideoTransformer3DModel:
    torch.manual_seed(0)
    return LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        caption_channels=16, num_layers=2,
    ).eval()


def output(model: LTXVideoTransformer3DModel) -> torch.Tensor:
    return model(
        hidden_states=latents, encoder_hidden_states=words, encoder_attention_mask=torch.ones(1, 4),
        timestep=torch.tensor([500.0]), num_frames=1, height=4, width=4, return_dict=False,
    )[0]


def skipped(dropout: float) -> torch.Tensor:
    skipping = model()
    config = LayerSkipConfig(
        indices=[0], fqn="transformer_blocks", skip_attention=False, skip_ff=True, dropout=dropout
    )
    apply_layer_skip(skipping, config)
    return output(skipping)


without = model()
last = without.transformer_blocks[0].ff.net[-1]
last.weight.zero_()
last.bias.zero_()
right = output(without)
found = {"the model as it is": output(model())}
found |= {f"skipped at dropout {dropout}": skipped(dropout) for dropout in (0.99999999, 1)}
for name, value in found.items():
    print(f"{name}: {float((value - right).norm() / right.norm()):.2f}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "the model as it is: 0.12
skipped at dropout 0.99999999: 0.00
skipped at dropout 1: 0.69" ]
