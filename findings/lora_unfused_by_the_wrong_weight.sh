#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2: unfuse_lora(), of which the documentation says that it reverses fuse_lora().
#
# It takes off what the adapter would add at its weight of now, not what was fused. Set to weight 0 in between, as one
# may to see the picture without it, the LoRA stays in the base weights for good: off or at weight 0, the model computes
# it all the same. And fuse_lora(lora_scale=0.5) multiplies the adapter's own weight by 0.5, which unfusing does not
# take back, so that the next call has half the LoRA. Neither warns.
#
# Seen:
#   fused, unfused, adapter off: base
#   fused, set to weight 0, unfused, adapter off: base with the LoRA in it
#   fused, unfused: as at weight 1.0
#   fused with lora_scale 0.5, unfused: as at weight 0.5
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

torch.set_grad_enabled(False)
latents, words = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8)


def model() -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
    )
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]), "style")
    return unet.eval()


def output(unet: UNet2DConditionModel) -> torch.Tensor:
    return unet(latents, torch.tensor([500]), words, return_dict=False)[0]


def known() -> dict[str, torch.Tensor]:
    unet, found = model(), {}
    for weight in (1.0, 0.5):
        unet.set_adapters(["style"], weights=[weight])
        found[f"as at weight {weight}"] = output(unet)
    unet.disable_adapters()
    return {"base": output(unet), **found}


def told(*steps, off: bool = False) -> str:
    unet = model()
    for step in steps:
        step(unet)
    if off:
        unet.disable_adapters()
    right = next((name for name, right in known().items() if torch.allclose(output(unet), right, atol=1e-5)), "none")
    return "base with the LoRA in it" if off and right == "as at weight 1.0" else right


def fuse(unet):
    unet.fuse_lora()


def unfuse(unet):
    unet.unfuse_lora()


print(f"fused, unfused, adapter off: {told(fuse, unfuse, off=True)}")
silenced = told(fuse, lambda unet: unet.set_adapters(["style"], weights=[0.0]), unfuse, off=True)
print(f"fused, set to weight 0, unfused, adapter off: {silenced}")
print(f"fused, unfused: {told(fuse, unfuse)}")
print(f"fused with lora_scale 0.5, unfused: {told(lambda unet: unet.fuse_lora(lora_scale=0.5), unfuse)}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "fused, unfused, adapter off: base
fused, set to weight 0, unfused, adapter off: base with the LoRA in it
fused, unfused: as at weight 1.0
fused with lora_scale 0.5, unfused: as at weight 0.5" ]
