"""Measures a pocket model: `python -m benchmarks.pocket.evaluate --out evaluation.json`, or with `--name few`.

Adherence: the share of clips in which the verifier reads what the caption says, for each attribute and for all of them
at once. Fairness: the PSNR of half the steps against all, from the same noise; a model on which half the steps change
nothing would flatter every acceleration. Of a sibling of "video" also: how near its clips are to those of "video" from
the same noise, and what "video" itself reaches on the same captions in how many seconds. A picture is a clip of one
frame.
"""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from accel.call_forms import call_default
from accel.measure.metrics import psnr, to_clips
from accel.pocket import MODELS, load, pipeline_class
from accel.pocket.scenes import prompts
from accel.pocket.verifier import Array, verify

COMPARED = 24
SIZES = ((64, 64, 17), (96, 96, 17), (128, 128, 33))
PICTURE = (64, 64, 1)
SIBLINGS = ("few", "small")


def generate(
    pipe: Any, captions: Sequence[str], size: tuple[int, int, int], steps: int, guidance: float, batch: int = 16
) -> list[Array]:
    """One clip for each caption, from noise that depends only on its place in the list."""
    height, width, frames = size
    fixed: dict[str, Any] = {"height": height, "width": width, "num_inference_steps": steps, "guidance_scale": guidance}
    if "num_frames" in inspect.signature(pipe.__call__).parameters:
        fixed["num_frames"] = frames
    clips: list[Array] = []
    for start in range(0, len(captions), batch):
        chosen = list(captions[start : start + batch])
        seeds = [torch.Generator().manual_seed(start + i) for i in range(len(chosen))]
        clips += to_clips(pipe(chosen, generator=seeds, **fixed))
    return clips


def adherence(clips: Sequence[Array], captions: Sequence[str]) -> dict[str, float]:
    """Share of clips that match their caption: in each attribute, and in all ("correct")."""
    read = [verify(clip, caption) for clip, caption in zip(clips, captions, strict=True)]
    shares = {name: float(np.mean([one.matches[name] for one in read])) for name in read[0].matches}
    return shares | {"correct": float(np.mean([one.correct for one in read]))}


def evaluate(
    pipe: Any,
    captions: Sequence[str],
    size: tuple[int, int, int],
    guidance: float,
    steps: int = 50,
    reference: Sequence[Array] = (),
    fewer: Sequence[int] = (),
) -> dict[str, Any]:
    """Adherence over all captions; over the first of them fewer steps (half of them) against all, and all against the
    reference (clips of the teacher for the same captions), in decibels."""
    start = time.process_time()
    full = generate(pipe, captions, size, steps, guidance)
    seconds = time.process_time() - start
    result: dict[str, Any] = {
        "height_width_frames": list(size),
        "guidance": guidance,
        "steps": steps,
        "prompts": len(captions),
        "adherence": {name: round(share, 4) for name, share in adherence(full, captions).items()},
    }
    for count in fewer or ([steps // 2] if steps > 1 else []):
        short = generate(pipe, captions[:COMPARED], size, count, guidance)
        result[f"psnr_{count}_against_{steps}"] = decibels(short, full)
    if reference:
        result["psnr_against_the_teacher"] = decibels(full, reference)
    return result | {f"processor_seconds_for_a_clip_of_{steps}_steps": round(seconds / len(captions), 2)}


def decibels(clips: Sequence[Array], others: Sequence[Array]) -> dict[str, float]:
    """PSNR of the clips that both lists begin with."""
    values = [psnr(a, b) for a, b in zip(clips, others, strict=False)]
    return {
        "mean": round(float(np.mean(values)), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
        "clips": len(values),
    }


def measure_teacher(captions: Sequence[str]) -> tuple[list[Array], dict[str, Any]]:
    """The clips of "video" at its defaults, its adherence, and its processor seconds for a clip."""
    teacher = load("video")
    teacher.set_progress_bar_config(disable=True)
    start = time.process_time()
    steps, guidance = (call_default(teacher, name) for name in ("num_inference_steps", "guidance_scale"))
    clips = generate(teacher, captions, SIZES[0], steps, guidance)
    seconds = time.process_time() - start
    shares = {name: round(share, 4) for name, share in adherence(clips, captions).items()}
    return clips, {
        "steps": steps,
        "guidance": guidance,
        "adherence": shares,
        "processor_seconds_for_a_clip": round(seconds / len(captions), 2),
    }


def write_sheet(path: Path, clips: Sequence[Array]) -> None:
    """Six frames of each clip beside each other, the clips below each other; of pictures, six in each row."""
    if len(clips[0]) == 1:
        clips = [np.concatenate(clips[start : start + 6]) for start in range(0, len(clips) // 6 * 6, 6)]
    rows = [np.concatenate([clip[i] for i in np.linspace(0, len(clip) - 1, 6).astype(int)], axis=1) for clip in clips]
    image = Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8))
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure a pocket model.")
    parser.add_argument("--name", choices=MODELS, default="video", help="the packaged model to measure")
    parser.add_argument("--model", type=Path, help="a folder that a training script wrote, in place of a packaged one")
    parser.add_argument("--prompts", type=int, default=96, help="captions at 64x64; a part of them at larger sizes")
    parser.add_argument("--seed", type=int, default=2024, help="chooses the captions")
    parser.add_argument(
        "--guidance", type=float, nargs="+", help="the first is used at larger sizes (left out: the model's own)"
    )
    parser.add_argument(
        "--steps", type=int, nargs="+", help="the first is used at larger sizes (left out: the model's own)"
    )
    parser.add_argument("--fewer", type=int, nargs="+", default=[], help="steps to compare with all (half of them)")
    parser.add_argument(
        "--larger", action=argparse.BooleanOptionalAction, default=True, help="measure larger sizes too"
    )
    parser.add_argument("--sheet", type=Path, help="PNG of the first clips, one a row, in six frames")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    pipe = load(options.name) if options.model is None else pipeline_class(options.name).from_folder(options.model)
    pipe.set_progress_bar_config(disable=True)
    guidances = options.guidance or [call_default(pipe, "guidance_scale")]
    counts = options.steps or [call_default(pipe, "num_inference_steps")]
    captions = prompts(options.prompts, options.seed)
    reference, teacher = measure_teacher(captions) if options.name in SIBLINGS else ([], None)
    first, *larger = [PICTURE] if options.name == "image" else SIZES
    results = [
        evaluate(pipe, captions, first, guidance, steps, reference, options.fewer)
        for guidance in guidances
        for steps in counts
    ]
    for size, part in zip(larger, (8, 16), strict=False) if options.larger else ():
        results.append(evaluate(pipe, captions[: max(len(captions) // part, 1)], size, guidances[0], counts[0]))
    if options.sheet is not None:
        write_sheet(options.sheet, generate(pipe, captions[:12], first, counts[0], guidances[0]))
    command = (
        "python -m benchmarks.pocket.evaluate"
        + (f" --name {options.name}" if options.name != "video" else "")
        + f" --prompts {options.prompts} --seed {options.seed} --guidance "
        + " ".join(f"{value:g}" for value in guidances)
        + (" --steps " + " ".join(map(str, counts)) if options.steps else "")
        + (" --fewer " + " ".join(map(str, options.fewer)) if options.fewer else "")
        + ("" if options.larger else " --no-larger")
    )
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    report: dict[str, Any] = {"command": command, "torch": torch.__version__, "machine": machine}
    report |= {"results": results} if teacher is None else {"teacher": teacher, "results": results}
    print(json.dumps(report, indent=1), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
