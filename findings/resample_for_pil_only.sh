#!/usr/bin/env bash
# diffusers 0.42.1, VaeImageProcessor(resample=...), the "resampling filter to use when resizing the image", on input
# that is not a PIL image. All pipelines that take pictures preprocess with it.
#
# The filter is used for PIL images only. A tensor or an array of the same picture is resized by picking nearest pixels,
# whatever the filter, without a warning. Made 4 times smaller with lanczos, fine noise of contrast 0.58 averages out to
# 0.13 as a PIL image, while as a tensor it keeps 0.59: it is aliased, and so is a real picture's texture.
#
# Seen: standard deviation at a quarter of the size, and whether that is every fourth pixel
#   lanczos: PIL 0.13 False, tensor 0.59 True, array 0.59 True
#   bilinear: PIL 0.10 False, tensor 0.59 True, array 0.59 True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6 pillow==13.0.0
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import numpy as np
import PIL.Image
import torch
from diffusers.image_processor import VaeImageProcessor

picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
inputs = {
    "PIL": PIL.Image.fromarray(picture),
    "tensor": torch.from_numpy(picture).permute(2, 0, 1)[None] / 255,
    "array": picture[None].astype(np.float32) / 255,
}
fourth = inputs["tensor"][:, :, ::4, ::4] * 2 - 1
for resample in ("lanczos", "bilinear"):
    processor = VaeImageProcessor(resample=resample)
    made = {name: processor.preprocess(given, height=16, width=16) for name, given in inputs.items()}
    told = (f"{name} {out.std():.2f} {torch.allclose(out, fourth, atol=1e-5)}" for name, out in made.items())
    print(f"{resample}: {', '.join(told)}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "lanczos: PIL 0.13 False, tensor 0.59 True, array 0.59 True
bilinear: PIL 0.10 False, tensor 0.59 True, array 0.59 True" ]
