#!/usr/bin/env bash
# diffusers 0.42.1, DEISMultistepScheduler and SASolverScheduler with use_flow_sigmas=True, prediction_type=
# "flow_prediction", all of which are documented.
#
# Their list of noise levels ends with the level of the last step once more, and not with 0: the last step goes nowhere,
# and what comes out still has that step's noise. With few steps and a shift, as flow models are run, that is much:
# 14 % after 20 steps at shift 3. With a model that answers with the very velocity the picture ought to come back
# exactly, and what comes is picture + 0.14 (noise - picture). DPM-Solver++ and UniPC with the same options end at 0.
#
# Seen: the last noise level, and the share of the way from the picture to the noise that is left after 20 steps
#   DPMSolverMultistepScheduler: 0.00, 0.00
#   UniPCMultistepScheduler: 0.00, 0.00
#   DEISMultistepScheduler: 0.14, 0.14
#   SASolverScheduler: 0.14, 0.14
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import diffusers
import torch

picture, noise = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "SASolver"):
    options = {"tau_func": lambda t: 0} if name == "SASolver" else {}  # SA-Solver without noise of its own
    scheduler = getattr(diffusers, f"{name}Scheduler")(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, **options
    )
    scheduler.set_timesteps(20)
    level = float(scheduler.sigmas[0])
    sample = (1 - level) * picture + level * noise
    for timestep in scheduler.timesteps:
        sample = scheduler.step(noise - picture, timestep, sample, return_dict=False)[0]
    left = (sample - picture).norm() / (noise - picture).norm()
    print(f"{name}Scheduler: {float(scheduler.sigmas[-1]):.2f}, {left:.2f}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "DPMSolverMultistepScheduler: 0.00, 0.00
UniPCMultistepScheduler: 0.00, 0.00
DEISMultistepScheduler: 0.14, 0.14
SASolverScheduler: 0.14, 0.14" ]
