#!/usr/bin/env bash
# diffusers 0.42.1, EDMEulerScheduler.set_timesteps(sigmas=...), "custom sigmas to use for the denoising process".
#
# The sigmas are not used as such. With the Karras schedule, which is the default, they are taken for places on the way
# from the largest sigma to the smallest, as if they lay between 0 and 1: the scheduler's own five sigmas, given back to
# it, turn into noise levels of minus 2.6e14 to 79, of which the largest is the last, and the timesteps into NaN. With
# the exponential schedule only their number counts, so that any list of five is the scheduler's own. A Python list,
# which the annotation allows, raises.
#
# Seen:
#   karras, own: 80.00, 17.53, 2.52, 0.17, 0.00, 0.00
#   karras, own given back: -2.6e+14, -4.2e+09, -61, 30, 79, 0, timesteps that are numbers: 2 of 5
#   exponential, own: 80.00, 5.66, 0.40, 0.03, 0.00, 0.00
#   exponential, given 8, 4, 2, 1, 0.5: 80.00, 5.66, 0.40, 0.03, 0.00, 0.00
#   as a list: AttributeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import EDMEulerScheduler


def listed(sigmas: torch.Tensor) -> str:
    return ", ".join(f"{float(sigma):.2f}" for sigma in sigmas)


karras = EDMEulerScheduler()
karras.set_timesteps(5)
print("karras, own:", listed(karras.sigmas))
karras.set_timesteps(5, sigmas=karras.sigmas[:-1].clone())
numbers = int(karras.timesteps.isfinite().sum())
back = ", ".join(f"{float(sigma):.2g}" for sigma in karras.sigmas)
print(f"karras, own given back: {back}, timesteps that are numbers: {numbers} of 5")

exponential = EDMEulerScheduler(sigma_schedule="exponential")
exponential.set_timesteps(5)
print("exponential, own:", listed(exponential.sigmas))
exponential.set_timesteps(5, sigmas=torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5]))
print("exponential, given 8, 4, 2, 1, 0.5:", listed(exponential.sigmas))
try:
    karras.set_timesteps(5, sigmas=[8.0, 4.0, 2.0, 1.0, 0.5])
except AttributeError as error:
    print("as a list:", type(error).__name__)
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "karras, own: 80.00, 17.53, 2.52, 0.17, 0.00, 0.00
karras, own given back: -2.6e+14, -4.2e+09, -61, 30, 79, 0, timesteps that are numbers: 2 of 5
exponential, own: 80.00, 5.66, 0.40, 0.03, 0.00, 0.00
exponential, given 8, 4, 2, 1, 0.5: 80.00, 5.66, 0.40, 0.03, 0.00, 0.00
as a list: AttributeError" ]
