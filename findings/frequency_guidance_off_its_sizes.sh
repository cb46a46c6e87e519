#!/usr/bin/env bash
# diffusers 0.42.1 with kornia 0.9.0, FrequencyDecoupledGuidance, whose documentation gives scales for Stable Diffusion XL.
#
# The predictions are taken apart by kornia, which pads a picture of which no side is a power of two up to the next ones,
# and says so. diffusers does not take the padding off again. So the guided prediction is of another size than the
# latents, and the scheduler's step raises on the two. Of five sizes that SDXL is used with only the first works, and
# nothing in diffusers names a condition on the size.
#
# Seen: by size of the picture, latents and guided prediction
#   1024 by 1024: 128 by 128 and 128 by 128
#   768 by 768: 96 by 96 and 128 by 128
#   1152 by 896: 112 by 144 and 128 by 256
#   1216 by 832: 104 by 152 and 128 by 256
#   1344 by 768: 96 by 168 and 128 by 256
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 kornia==0.9.0 kornia_rs==0.2.0 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import FrequencyDecoupledGuidance

guider = FrequencyDecoupledGuidance(guidance_scales=[10.0, 5.0])
guider.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(999))
for width, height in ((1024, 1024), (768, 768), (1152, 896), (1216, 832), (1344, 768)):
    prompt, negative = torch.randn(2, 1, 4, height // 8, width // 8)
    guided = guider.forward(pred_cond=prompt, pred_uncond=negative).pred
    sizes = " and ".join(f"{latents.shape[2]} by {latents.shape[3]}" for latents in (prompt, guided))
    print(f"{width} by {height}: {sizes}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "1024 by 1024: 128 by 128 and 128 by 128
768 by 768: 96 by 96 and 128 by 128
1152 by 896: 112 by 144 and 128 by 256
1216 by 832: 104 by 152 and 128 by 256
1344 by 768: 96 by 168 and 128 by 256" ]
