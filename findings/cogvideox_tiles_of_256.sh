#!/usr/bin/env bash
# diffusers 0.42.1, AutoencoderKLCogVideoX.enable_tiling(tile_sample_min_height=256, tile_sample_min_width=256).
#
# Tiles are set in pixels and overlaps as shares of a tile, 1/6 and 1/5 by default. The step from tile to tile is
# rounded down in latents, and what is kept of a tile is rounded down in pixels, and nothing checks that the two agree.
# They do for the default tiles (240 x 360), but of tiles of 256 each keeps 214 x 205 pixels and the next begins
# 208 x 200 further: a strip of the picture comes twice at each seam, and frames come out larger than without tiling.
# Encoding has the like, and the latents no longer fit those of the whole picture. No error, no warning. Overlaps of
# 1/4 agree.
#
# Seen: height and width of a frame of 480 x 720, and of its latents
#   whole: 480 x 720, 60 x 90
#   default tiles: 480 x 720, 60 x 90
#   tiles of 256: 492 x 735, 60 x 91
#   tiles of 256, overlaps of 1/4: 480 x 720, 60 x 90
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check diffusers==0.42.1 numpy==2.4.6
seen=$("$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import AutoencoderKLCogVideoX

torch.manual_seed(0)
vae = AutoencoderKLCogVideoX(
    block_out_channels=(4, 4, 4, 4), down_block_types=("CogVideoXDownBlock3D",) * 4, layers_per_block=1,
    up_block_types=("CogVideoXUpBlock3D",) * 4, latent_channels=4, norm_num_groups=2,
).eval()
frame, latents = torch.rand(1, 3, 1, 480, 720), torch.randn(1, 4, 1, 60, 90)


@torch.no_grad()
def told(name: str) -> str:
    made = vae.decode(latents).sample, vae.encode(frame).latent_dist.mode()
    return f"{name}: " + ", ".join(f"{height} x {width}" for *_, height, width in (part.shape for part in made))


print(told("whole"))
vae.enable_tiling()
print(told("default tiles"))
vae.enable_tiling(tile_sample_min_height=256, tile_sample_min_width=256)
print(told("tiles of 256"))
vae.enable_tiling(256, 256, tile_overlap_factor_height=0.25, tile_overlap_factor_width=0.25)
print(told("tiles of 256, overlaps of 1/4"))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "whole: 480 x 720, 60 x 90
default tiles: 480 x 720, 60 x 90
tiles of 256: 492 x 735, 60 x 91
tiles of 256, overlaps of 1/4: 480 x 720, 60 x 90" ]
