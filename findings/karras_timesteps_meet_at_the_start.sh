#!/usr/bin/env bash
# diffusers 0.42.1, use_karras_sigmas=True on the cosine schedule (beta_schedule="squaredcos_cap_v2", which DeepFloyd IF
# was trained with), all other settings at their defaults.
#
# Some schedulers round the timesteps that belong to Karras' noise levels. The cosine schedule puts hundreds of levels
# between its last two timesteps, so several of the first ones round to 999. Where a run begins is looked up by value,
# and of several equal timesteps the second is taken: the run begins late and comes to the end of its list too early.
# KDPM2 then returns NaN, the multistep solvers raise an error that does not speak of it, and where nothing is rounded
# (Euler) or the first of the equal ones has been taken (Heun) a model that knows the picture gets it back.
#
# Seen, 20 steps with a model that knows the picture:
#   EulerDiscreteScheduler: the picture
#   HeunDiscreteScheduler: the picture
#   KDPM2DiscreteScheduler: NaN
#   KDPM2AncestralDiscreteScheduler: NaN
#   DPMSolverMultistepScheduler: IndexError
#   DEISMultistepScheduler: IndexError
#   UniPCMultistepScheduler: AssertionError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import diffusers
import torch

PICTURE = 0.7


def outcome(name: str) -> str:
    scheduler = getattr(diffusers, name)(use_karras_sigmas=True, beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(20)
    sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    try:
        for timestep in scheduler.timesteps:
            seen = scheduler.scale_model_input(sample, timestep)
            share = scheduler.alphas_cumprod[int(timestep)]
            noise = (seen - share.sqrt() * PICTURE) / (1 - share).sqrt()
            sample = scheduler.step(noise, timestep, sample, return_dict=False)[0]
    except (IndexError, AssertionError) as error:
        return type(error).__name__
    if not torch.isfinite(sample).all():
        return "NaN"
    return "the picture" if (sample - PICTURE).abs().max() < 0.05 else "another picture"


for name in ("Euler", "Heun", "KDPM2", "KDPM2Ancestral", "DPMSolver", "DEIS", "UniPC"):
    kind = "Multistep" if name in ("DPMSolver", "DEIS", "UniPC") else "Discrete"
    print(f"{name}{kind}Scheduler: {outcome(f'{name}{kind}Scheduler')}")
PYTHON
)
echo "$seen"
[ "$seen" = "EulerDiscreteScheduler: the picture
HeunDiscreteScheduler: the picture
KDPM2DiscreteScheduler: NaN
KDPM2AncestralDiscreteScheduler: NaN
DPMSolverMultistepScheduler: IndexError
DEISMultistepScheduler: IndexError
UniPCMultistepScheduler: AssertionError" ]
