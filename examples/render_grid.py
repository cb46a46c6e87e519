"""Renders one prompt with every combination of recipes and steps, and tells what each costs and how close it comes.

    python examples/render_grid.py --out renders/grid

The same from the command line, with a manifest of one line:

    accel render one.jsonl --model pocket:video --grid recipe=off,balanced,fast --grid steps=25,50 --metrics
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import accel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--prompt", default="a red circle moves left on a dark background")
parser.add_argument("--model", default="pocket:video", help="pocket:video, a diffusers folder, or a model id")
parser.add_argument("--out", type=Path, default=Path("renders/grid"))
parser.add_argument("--recipes", nargs="+", default=["balanced", "fast"], help="presets or recipe files")
parser.add_argument("--steps", type=int, nargs="+", default=[25, 50])
options = parser.parse_args()

summary = accel.render(
    options.model,
    [{"prompt": options.prompt}],
    out=options.out,
    grid={"recipe": options.recipes, "steps": options.steps},
    output="{slug}/{recipe}-{steps}-steps",
    metrics=True,  # each job is rendered unaccelerated as well, to compare
)
print(summary)
for line in (options.out / "ledger.jsonl").read_text(encoding="utf-8").splitlines():
    entry = json.loads(line)
    if entry["status"] == "ok":
        seconds, psnr = entry["seconds"]["total"], entry["metrics"]["psnr"]
        print(f"{seconds:6.2f} s  {psnr:5.1f} dB  {entry['file']}")
