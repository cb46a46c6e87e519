#!/usr/bin/env bash
# torchmetrics 1.9.0, visual_information_fidelity and VisualInformationFidelity, on pictures in [0, 1], which is what the
# pipelines of this field return.
#
# The metric compares what a viewer with visual noise of variance 2 sees of two pictures, and 2 is meant for pixels up to
# 255. There is no data_range, unlike in torchmetrics' SSIM and PSNR, and the documentation names no range. In [0, 1] the
# visual noise drowns everything, and the metric hardly sees what was done to a picture: with noise of a tenth of the
# range on it, it scores 0.99, and 0.27 when both are multiplied by 255 first. No warning is given.
#
# Seen: the picture itself, then with noise of 0.05, 0.1 and 0.2 of the range
#   in [0, 1]: 1.00, 1.00, 0.99, 0.91
#   in [0, 255]: 1.00, 0.43, 0.27, 0.15
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torchmetrics==1.9.0 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from torchmetrics.functional.image import visual_information_fidelity

torch.manual_seed(0)
picture = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), size=128, mode="bilinear").clamp(0.2, 0.8)
noise = torch.randn(1, 3, 128, 128)
for name, scale in (("in [0, 1]", 1), ("in [0, 255]", 255)):
    noisy = ((picture + strength * noise).clamp(0, 1) for strength in (0, 0.05, 0.1, 0.2))
    found = (visual_information_fidelity(scale * changed, scale * picture) for changed in noisy)
    print(f"{name}: " + ", ".join(f"{value:.2f}" for value in found))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "in [0, 1]: 1.00, 1.00, 0.99, 0.91
in [0, 255]: 1.00, 0.43, 0.27, 0.15" ]
