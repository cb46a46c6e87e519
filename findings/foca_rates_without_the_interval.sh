#!/usr/bin/env bash
# cache-dit 1.5.3, FoCaCalibratorConfig, the calibrator that forecasts a cached feature from its rate of change.
#
# The rate is the difference between the last two computed features, and is used as that of one step however many steps
# lie between them; the step of the one before is stored but never read. So a feature that changes by 1 a step, computed
# in every fourth, is forecast to change by 2.5, 4 and 5.5 a step, and after the next computed one by -2, 4 and 10.
# While it is computed in every step the forecasts are right, so that they go wrong once caching has begun. TaylorSeer
# divides by the interval and is exact here. What is forecast is added to the hidden states of the model.
#
# Seen: forecasts for steps 9 to 11 and 13 to 15 of the feature that equals its step, computed at 0 to 4, 8 and 12
#   taylorseer: 9.0, 10.0, 11.0, 13.0, 14.0, 15.0
#   foca: 10.5, 14.5, 20.0, 10.0, 14.0, 24.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    cache-dit==1.5.3 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 ftfy==6.3.1
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON' | grep -E "^(taylorseer|foca): "
import torch
from cache_dit import FoCaCalibratorConfig, TaylorSeerCalibratorConfig
from cache_dit.caching.cache_contexts.calibrators import Calibrator

COMPUTED = (0, 1, 2, 3, 4, 8, 12)


def forecasts(config) -> dict[int, float]:
    calibrator, found = Calibrator(config), {}
    for step in range(16):
        calibrator.mark_step_begin()
        if step in COMPUTED:
            calibrator.update(torch.full((1, 4, 8), float(step)))
        else:
            found[step] = float(calibrator.approximate().mean())
    return found


for config in (TaylorSeerCalibratorConfig(taylorseer_order=1), FoCaCalibratorConfig()):
    late = (value for step, value in forecasts(config).items() if step > 8)
    print(f"{config.calibrator_type}: " + ", ".join(f"{value:.1f}" for value in late))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "taylorseer: 9.0, 10.0, 11.0, 13.0, 14.0, 15.0
foca: 10.5, 14.5, 20.0, 10.0, 14.0, 24.0" ]
