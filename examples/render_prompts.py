"""Renders a list of prompts with one pipeline, accelerated, and can be stopped and started again at any time.

    python examples/render_prompts.py --out renders/prompts
    python examples/render_prompts.py prompts.txt --model path/to/model --out renders/prompts --seeds 4

Run it twice: the second time nothing is left to do. Add a prompt to the file, and only that one is rendered.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import accel
from accel.loading import load_pipeline
from accel.pocket import prompts

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("prompts", nargs="?", type=Path, help="a text file, one prompt per line (the pocket model's own)")
parser.add_argument("--model", default="pocket:few", help="pocket:few, a diffusers folder, or a model id")
parser.add_argument("--out", type=Path, default=Path("renders/prompts"))
parser.add_argument("--seeds", type=int, default=2, help="files per prompt")
parser.add_argument("--steps", type=int, help="inference steps (the model's own number)")
options = parser.parse_args()

texts = options.prompts.read_text(encoding="utf-8").splitlines() if options.prompts else prompts(4, seed=0)
pipe = load_pipeline(options.model)
accel.accelerate(pipe, "balanced")  # every line renders with this, because none names a recipe of its own

summary = accel.render(
    pipe,
    [{"prompt": text, "repeat": options.seeds, "steps": options.steps} for text in texts if text.strip()],
    out=options.out,
)
print(summary)
print(f"Look at {summary.page}")
