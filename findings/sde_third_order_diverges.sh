#!/usr/bin/env bash
# diffusers 0.42.1, algorithm_type="sde-dpmsolver++" with solver_order=3, which is documented: in
# DPMSolverMultistepScheduler, and with solver_type="heun" in DPMSolverSinglestepScheduler.
#
# The term of the second difference has the wrong sign for its 0.5, so that it does not vanish with the step: every step
# adds noise, and more steps make it worse. Nothing warns. The model here is exact for data of standard deviation 0.4.
# Order 2 gets nearer to that with more steps; what order 3 makes moves away from it, and heun's is seven times as wide.
# The coefficient is 1/2 + (1 - exp(-2h) - 2h) / (2h)^2, which goes to 0 with h; that with -1/2 goes to -1.
#
# Seen: standard deviation after 25, 100 and 400 steps
#   multistep, order 2: 0.4, 0.4, 0.4
#   multistep, order 3: 0.4, 0.4, 1.4
#   singlestep heun, order 2: 0.3, 0.4, 0.4
#   singlestep heun, order 3: 2.5, 2.8, 3.2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler

SPREAD = 0.4
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def spread(kind: type, steps: int, **options) -> float:
    scheduler = kind(algorithm_type="sde-dpmsolver++", **STABLE_DIFFUSION, **options)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 1, 160, 160, generator=generator)
    for timestep in scheduler.timesteps:
        kept = scheduler.alphas_cumprod[timestep]  # share of the data's variance in the sample's
        noise = (1 - kept).sqrt() * sample / (kept * SPREAD**2 + 1 - kept)  # its mean, given the sample
        sample = scheduler.step(noise, timestep, sample, generator=generator, return_dict=False)[0]
    return float(sample.std())


kinds = {
    "multistep": (DPMSolverMultistepScheduler, {}),
    "singlestep heun": (DPMSolverSinglestepScheduler, {"solver_type": "heun"}),
}
for name, (kind, options) in kinds.items():
    for order in (2, 3):
        found = (spread(kind, steps, solver_order=order, **options) for steps in (25, 100, 400))
        print(f"{name}, order {order}: " + ", ".join(f"{value:.1f}" for value in found))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "multistep, order 2: 0.4, 0.4, 0.4
multistep, order 3: 0.4, 0.4, 1.4
singlestep heun, order 2: 0.3, 0.4, 0.4
singlestep heun, order 3: 2.5, 2.8, 3.2" ]
