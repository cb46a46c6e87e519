#!/usr/bin/env bash
# diffusers 0.42.1, UniPCMultistepScheduler(solver_type="bh1"), all other settings at their defaults.
#
# The last step of every run returns nothing but NaN, for all solver orders. The default final_sigmas_type="zero" makes
# that step infinitely long in log-SNR, and bh1 takes that length itself for its B(h), where bh2 takes exp(h) - 1, which
# stays finite. bh1 is one of the two documented solver types. With final_sigmas_type="sigma_min" it works.
#
# Seen: bh1 zero finite: False | bh1 sigma_min finite: True | bh2 zero finite: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import UniPCMultistepScheduler


def finite(solver: str, end: str) -> bool:
    scheduler = UniPCMultistepScheduler(solver_type=solver, final_sigmas_type=end)
    scheduler.set_timesteps(10)
    sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        sample = scheduler.step(0.5 * sample, timestep, sample, return_dict=False)[0]
    return bool(torch.isfinite(sample).all())


print(" | ".join(f"{s} {e} finite: {finite(s, e)}" for s, e in (("bh1", "zero"), ("bh1", "sigma_min"), ("bh2", "zero"))))
PYTHON
)
echo "$seen"
[ "$seen" = "bh1 zero finite: False | bh1 sigma_min finite: True | bh2 zero finite: True" ]
