#!/usr/bin/env bash
# diffusers 0.42.1, EulerDiscreteScheduler(interpolation_type="log_linear"), one of the two documented values, on the
# schedule of Stable Diffusion.
#
# The noise levels are spread evenly in their logarithm, but the timesteps stay spread evenly in time, so the model is
# told another level than its input has: in the middle of a run twice what is there. There is also one level more than
# there are steps, so the run stops before it comes to the last one, zero. Karras', exponential and beta levels, for
# which timesteps are made anew, are not concerned.
#
# Seen, the noise levels of the input, those that the timesteps stand for, and where 10 steps end:
#   linear has 14.61 7.84 4.61 2.92 1.95 1.34 0.93 0.62 0.37 0.03
#   linear told 14.61 7.84 4.61 2.92 1.95 1.34 0.93 0.62 0.37 0.03
#   linear ends at 0.00
#   log_linear has 14.61 7.85 4.22 2.26 1.22 0.65 0.35 0.19 0.10 0.05
#   log_linear told 14.61 7.84 4.61 2.92 1.95 1.34 0.93 0.62 0.37 0.03
#   log_linear ends at 0.03
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
from diffusers import EulerDiscreteScheduler

for kind in ("linear", "log_linear"):
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type=kind
    )
    scheduler.set_timesteps(10)
    kept = scheduler.alphas_cumprod[scheduler.timesteps.long()]
    told = ((1 - kept) / kept) ** 0.5
    sample = torch.ones(1)
    has = []
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(sample, timestep)
        has.append(scheduler.sigmas[scheduler.step_index])
        scheduler.step(torch.zeros(1), timestep, sample)
    for name, levels in (("has", has), ("told", told)):
        print(kind, name, *(f"{float(level):.2f}" for level in levels))
    print(f"{kind} ends at {float(scheduler.sigmas[scheduler.step_index]):.2f}")
PYTHON
)
echo "$seen"
[ "$seen" = "linear has 14.61 7.84 4.61 2.92 1.95 1.34 0.93 0.62 0.37 0.03
linear told 14.61 7.84 4.61 2.92 1.95 1.34 0.93 0.62 0.37 0.03
linear ends at 0.00
log_linear has 14.61 7.85 4.22 2.26 1.22 0.65 0.35 0.19 0.10 0.05
log_linear told 14.61 7.84 4.61 2.92 1.95 1.34 0.93 0.62 0.37 0.03
log_linear ends at 0.03" ]
