#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2: a call with `cross_attention_kwargs={"scale": 0.0}`, which is the documented way to
# leave LoRAs out of one call, on a model whose adapter has another weight than 1.
#
# Each call multiplies the adapters' weights by its scale and afterwards divides by it. By 0 it cannot divide, so it
# sets every active adapter to 1.0, "the correct value" in the words of its docstring, whatever set_adapters gave it.
# From then on every call has the LoRA at full strength, with no warning, until set_adapters is called again.
#
# Seen: adapter of weight 0.3
#   after a call with scale 0.5: as at weight 0.3
#   after a call with scale 0.0: as at weight 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=2,
)
unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]), "style")
unet.eval()
latents, words = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8)


@torch.no_grad()
def output(**call) -> torch.Tensor:
    return unet(latents, torch.tensor([500]), words, return_dict=False, **call)[0]


known = {}
for weight in (0.3, 1.0):
    unet.set_adapters(["style"], weights=[weight])
    known[f"as at weight {weight}"] = output()
for scale in (0.5, 0.0):
    unet.set_adapters(["style"], weights=[0.3])
    output(cross_attention_kwargs={"scale": scale})
    found = output()
    told = [words for words, right in known.items() if torch.allclose(found, right, atol=1e-5)]
    print(f"after a call with scale {scale}: {', '.join(told)}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "after a call with scale 0.5: as at weight 0.3
after a call with scale 0.0: as at weight 1.0" ]
