#!/usr/bin/env bash
# diffusers 0.42.1, UNetMotionModel.from_unet2d, which AnimateDiffSDXLPipeline calls when it is built.
#
# A U-Net of SDXL is told the picture's size and the pooled text through its `add_embedding`. The motion model that is
# made of it has such a layer too, and everything else is copied into it, but this layer keeps the random weights that it
# was made with. So the conditioning of the base model is lost, and two processes that load the same files and draw the
# same noise make different clips, unless torch was seeded before the pipeline was built.
#
# Seen: time_embedding copied: True | conv_in copied: True | conv_out copied: True | add_embedding copied: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
    addition_time_embed_dim=4, transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=32,
)
adapter = MotionAdapter(
    block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=2,
    use_motion_mid_block=False,
)
motion = UNetMotionModel.from_unet2d(unet, adapter)


def same(part):
    ours, theirs = getattr(motion, part).state_dict(), getattr(unet, part).state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


print(" | ".join(f"{part} copied: {same(part)}" for part in ("time_embedding", "conv_in", "conv_out", "add_embedding")))
PYTHON
)
echo "$seen"
[ "$seen" = "time_embedding copied: True | conv_in copied: True | conv_out copied: True | add_embedding copied: False" ]
