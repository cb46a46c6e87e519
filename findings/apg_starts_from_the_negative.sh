#!/usr/bin/env bash
# diffusers 0.42.1, AdaptiveProjectedGuidance in its default formulation, all other settings at their defaults.
#
# use_original_formulation is said to choose between two ways to write the same guidance. For plain guidance they are the
# same: negative + scale * difference, or prompt + (scale - 1) * difference. This guider shortens the difference first, to
# a norm of 15 at most, and then starts from the negative prediction all the same. What the shortening takes off is not
# only guidance but the prompt: with predictions of the size of SDXL's, a scale of 2 follows it less than a scale of 1,
# which is no guidance, and 1.01 is nearly the negative prompt. The paper's formula starts from the prompt's prediction;
# use_original_formulation=True does so too, with scales that are 1 lower.
#
# Seen: share of the prompt, 0 for the negative prediction and 1 for the prompt's, at scales 1, 1.01, 2, 5 and 7.5
#   default: 1.0, 0.2, 0.4, 1.0, 1.5
#   original, scales 1 lower: 1.0, 1.0, 1.2, 1.8, 2.3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import AdaptiveProjectedGuidance

torch.manual_seed(0)
prompt = torch.randn(1, 4, 128, 128)
negative = prompt + 0.3 * torch.randn(1, 4, 128, 128)
difference = prompt - negative


def share(scale: float, original: bool) -> float:
    guider = AdaptiveProjectedGuidance(guidance_scale=scale - original, use_original_formulation=original)
    guider.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(999))
    guided = guider.forward(pred_cond=prompt, pred_uncond=negative).pred
    return float(((guided - negative) * difference).sum() / difference.pow(2).sum())


for name, original in (("default", False), ("original, scales 1 lower", True)):
    print(f"{name}: " + ", ".join(f"{share(scale, original):.1f}" for scale in (1, 1.01, 2, 5, 7.5)))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "default: 1.0, 0.2, 0.4, 1.0, 1.5
original, scales 1 lower: 1.0, 1.0, 1.2, 1.8, 2.3" ]
