"""Measures the pocket video model: `python -m accel.pocket.evaluate --out evaluation.json`.

Two figures. Adherence: the share of clips in which the verifier reads what the caption says, for each attribute and for
all four at once. Fairness: the PSNR of 25 steps against 50, from the same noise; a model on which half the steps
change nothing would flatter every acceleration.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from accel.metrics import psnr
from accel.pocket import load
from accel.pocket.scenes import prompts
from accel.pocket.verifier import Array, verify

COMPARED = 24
SIZES = ((64, 64, 17), (96, 96, 17), (128, 128, 33))


def generate(
    pipe: Any, captions: Sequence[str], size: tuple[int, int, int], steps: int, guidance: float, batch: int = 16
) -> list[Array]:
    """One clip for each caption, from noise that depends only on its place in the list."""
    height, width, frames = size
    clips: list[Array] = []
    for start in range(0, len(captions), batch):
        chosen = list(captions[start : start + batch])
        seeds = [torch.Generator().manual_seed(start + i) for i in range(len(chosen))]
        options = {"height": height, "width": width, "num_frames": frames, "generator": seeds}
        clips += list(pipe(chosen, num_inference_steps=steps, guidance_scale=guidance, **options).frames)
    return clips


def adherence(clips: Sequence[Array], captions: Sequence[str]) -> dict[str, float]:
    """Share of clips that match their caption: in each attribute, and in all ("correct")."""
    read = [verify(clip, caption) for clip, caption in zip(clips, captions, strict=True)]
    shares = {name: float(np.mean([one.matches[name] for one in read])) for name in read[0].matches}
    return shares | {"correct": float(np.mean([one.correct for one in read]))}


def evaluate(pipe: Any, captions: Sequence[str], size: tuple[int, int, int], guidance: float) -> dict[str, Any]:
    """Adherence at 50 steps over all captions, and 25 steps against 50 in decibels over the first of them."""
    start = time.monotonic()
    full = generate(pipe, captions, size, 50, guidance)
    seconds = time.monotonic() - start
    half = generate(pipe, captions[:COMPARED], size, 25, guidance)
    decibels = [psnr(a, b) for a, b in zip(half, full[: len(half)], strict=True)]
    return {
        "height_width_frames": list(size),
        "guidance": guidance,
        "prompts": len(captions),
        "adherence": {name: round(share, 4) for name, share in adherence(full, captions).items()},
        "psnr_25_against_50": {
            "mean": round(float(np.mean(decibels)), 2),
            "least": round(min(decibels), 2),
            "most": round(max(decibels), 2),
            "clips": len(decibels),
        },
        "seconds_for_a_clip_of_50_steps": round(seconds / len(captions), 2),
    }


def write_sheet(path: Path, clips: Sequence[Array]) -> None:
    """Six frames of each clip beside each other, the clips below each other."""
    rows = [np.concatenate([clip[i] for i in np.linspace(0, len(clip) - 1, 6).astype(int)], axis=1) for clip in clips]
    image = Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8))
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the pocket video model.")
    parser.add_argument(
        "--model", type=Path, help="a folder that accel.pocket.train wrote (left out: the packaged model)"
    )
    parser.add_argument("--prompts", type=int, default=96, help="captions at 64x64x17; a part of them at larger sizes")
    parser.add_argument("--seed", type=int, default=2024, help="chooses the captions")
    parser.add_argument("--guidance", type=float, nargs="+", default=[6.0], help="the first is used at larger sizes")
    parser.add_argument(
        "--larger", action=argparse.BooleanOptionalAction, default=True, help="measure larger sizes too"
    )
    parser.add_argument("--sheet", type=Path, help="PNG of the first clips, one a row, in six frames")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    if options.model is None:
        pipe = load("video")
    else:
        from accel.pocket.pipeline import WanPocketPipeline

        pipe = WanPocketPipeline.from_folder(options.model)
    pipe.set_progress_bar_config(disable=True)
    captions = prompts(options.prompts, options.seed)
    runs = [(SIZES[0], guidance, captions) for guidance in options.guidance]
    for size, part in zip(SIZES[1:], (8, 16), strict=True) if options.larger else ():
        runs.append((size, options.guidance[0], captions[: max(len(captions) // part, 1)]))
    results = []
    for size, guidance, chosen in runs:
        results.append(evaluate(pipe, chosen, size, guidance))
        print(json.dumps(results[-1]), flush=True)
    if options.sheet is not None:
        write_sheet(options.sheet, generate(pipe, captions[:12], SIZES[0], 50, options.guidance[0]))
    command = (
        f"python -m accel.pocket.evaluate --prompts {options.prompts} --seed {options.seed} --guidance "
        + " ".join(f"{value:g}" for value in options.guidance)
    )
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    report = {"command": command, "torch": torch.__version__, "machine": machine, "results": results}
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
