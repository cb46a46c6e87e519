#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2: fuse_qkv_projections() on a model that has a LoRA on its keys and values.
#
# The fused layer is made of the base weights alone, and the processors call nothing else for them from then on. So the
# LoRA has no effect, whether it was added before fusing or after: it is listed as active, set_adapters takes a weight
# for it, and nothing warns. After unfuse_qkv_projections() it is back. Fused into the weights first (fuse_lora), it
# counts.
#
# Seen:
#   U-Net: LoRA, then fused: base | fused, then LoRA: base | unfused: LoRA | LoRA fused first: LoRA
#   Flux: LoRA, then fused: base | fused, then LoRA: base | unfused: LoRA | LoRA fused first: LoRA
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from peft import LoraConfig

torch.set_grad_enabled(False)


def unet():
    model = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
    ).eval()
    inputs = {"sample": torch.randn(1, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 4, 8)}
    return model, {"timestep": torch.tensor([500]), **inputs}


def flux():
    model = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4), guidance_embeds=False,
    ).eval()
    inputs = {"hidden_states": torch.randn(1, 4, 4), "encoder_hidden_states": torch.randn(1, 3, 8)}
    ids = {"img_ids": torch.zeros(4, 3), "txt_ids": torch.zeros(3, 3), "pooled_projections": torch.randn(1, 8)}
    return model, {"timestep": torch.tensor([0.5]), **inputs, **ids}


def told(make) -> str:
    def output(*changes):
        torch.manual_seed(0)
        model, inputs = make()
        for change in changes:
            torch.manual_seed(1)
            change(model)
        return model(**inputs, return_dict=False)[0]

    def lora(model):
        model.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_k", "to_v"]), "style")

    def merged(model):
        model.fuse_lora()

    def fused(model):
        model.fuse_qkv_projections()

    def unfused(model):
        model.unfuse_qkv_projections()

    base, right = output(), output(lora)

    def which(found) -> str:
        pairs = (("base", base), ("LoRA", right))
        return next((name for name, known in pairs if torch.allclose(found, known, atol=1e-6)), "neither")

    return (
        f"LoRA, then fused: {which(output(lora, fused))} | fused, then LoRA: {which(output(fused, lora))} | "
        f"unfused: {which(output(fused, lora, unfused))} | LoRA fused first: {which(output(lora, merged, fused))}"
    )


print(f"U-Net: {told(unet)}")
print(f"Flux: {told(flux)}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "U-Net: LoRA, then fused: base | fused, then LoRA: base | unfused: LoRA | LoRA fused first: LoRA
Flux: LoRA, then fused: base | fused, then LoRA: base | unfused: LoRA | LoRA fused first: LoRA" ]
