#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2: set_adapters(..., weights=[0.0]) with a DoRA adapter, which is a LoRA that has a
# learned magnitude for each row of a weight.
#
# The weight scales the low-rank part only. The magnitudes stay as they are, so that an adapter at weight 0 is not off:
# the model is nearly as far from the base model as at weight 1, and further still at 0.5, so that a slider from 0 to 1
# neither starts at the base model nor moves away from it. All other adapters of peft that have a weight are off at 0.
# disable_adapters() does switch it off.
#
# Seen: relative distance from the base model's output at weights 1, 0.5, 0 and with adapters disabled
#   LoRA: 0.44, 0.20, 0.00, 0.00
#   LoHa: 0.02, 0.01, 0.00, 0.00
#   LoKr: 0.41, 0.15, 0.00, 0.00
#   DoRA: 0.44, 0.50, 0.40, 0.00
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
from peft import LoHaConfig, LoKrConfig, LoraConfig

torch.set_grad_enabled(False)
given = torch.Generator().manual_seed(1)
latents, words = torch.randn(1, 4, 8, 8, generator=given), torch.randn(1, 4, 8, generator=given)
layers = {"r": 2, "target_modules": ["to_q", "to_k", "to_v"]}
kinds = {
    "LoRA": LoraConfig(init_lora_weights=False, **layers),
    "LoHa": LoHaConfig(init_weights=False, **layers),
    "LoKr": LoKrConfig(init_weights=False, **layers),
    "DoRA": LoraConfig(init_lora_weights=False, use_dora=True, **layers),
}


def output(config=None, weight: float | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
    ).eval()
    if config is not None:
        unet.add_adapter(config, "style")
        unet.set_adapters(["style"], weights=[weight]) if weight is not None else unet.disable_adapters()
    return unet.eval()(latents, torch.tensor([500]), words, return_dict=False)[0]


base = output()
for name, config in kinds.items():
    found = (float((output(config, weight) - base).norm() / base.norm()) for weight in (1.0, 0.5, 0.0, None))
    print(f"{name}: " + ", ".join(f"{value:.2f}" for value in found))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "LoRA: 0.44, 0.20, 0.00, 0.00
LoHa: 0.02, 0.01, 0.00, 0.00
LoKr: 0.41, 0.15, 0.00, 0.00
DoRA: 0.44, 0.50, 0.40, 0.00" ]
