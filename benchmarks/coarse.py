"""Does a small size at high noise pay? `python -m benchmarks.coarse` asks the pocket video model at 128x128.

Every row makes the same clips: processor time beside the unaccelerated pipeline's, how many show what their prompt says
(`accel.pocket.verify`), and how near they are to the unaccelerated ones. Another layout is another clip, so that PSNR
says little of the rows that change the size: adherence judges them. The table is printed again after each prompt.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import accel
from accel import CoarseToFine, OptimalSchedule, Recipe
from accel.measure.metrics import psnr
from accel.pocket.scenes import render, sample_scene

CACHE = OptimalSchedule(0.34)
MEASURED = "measured"  # stands for maps in the rows below, until they are measured
ROWS: dict[str, tuple[float, Recipe]] = {
    "unaccelerated": (1.0, Recipe()),
    **{f"small above {until:g}": (1.0, Recipe(resolution=CoarseToFine(until))) for until in (0.9, 0.8, 0.7, 0.5)},
    **{f"{MEASURED} maps, above {until:g}": (1.0, Recipe(resolution=CoarseToFine(until))) for until in (0.8, 0.7)},
    "0.65 of the steps": (0.65, Recipe()),
    "0.5 of the steps": (0.5, Recipe()),
    "0.38 of the steps": (0.38, Recipe()),
    "cache": (1.0, Recipe(cache=CACHE)),
    "cache, small above 0.9": (1.0, Recipe(cache=CACHE, resolution=CoarseToFine(0.9))),
    "cache, small above 0.7": (1.0, Recipe(cache=CACHE, resolution=CoarseToFine(0.7))),
    "0.24 of the steps": (0.24, Recipe()),
}
"""The share of the steps, and the recipe."""
LONG = {
    **{
        f"thirds of the frames above {until:g}": (1.0, Recipe(resolution=CoarseToFine(until, factor=1, frames=3)))
        for until in (0.9, 0.8, 0.7)
    },
    "cache, thirds of the frames above 0.7": (
        1.0,
        Recipe(cache=CACHE, resolution=CoarseToFine(0.7, factor=1, frames=3)),
    ),
}
"""Rows for clips that are longer than trained, by name alone: `--side 64 --frames 57 --rows ...`."""


def clip(pipe: Any, prompt: str, seed: int, size: dict[str, int], steps: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, generator=generator, num_inference_steps=steps, **size).frames[0]


def drawn(seed: int, count: int, side: int) -> list[Any]:
    """Clips of the data that the model was trained on, for the maps of its autoencoder."""
    rng = np.random.default_rng(seed)
    return [render(sample_scene(rng), side, side) for _ in range(count)]


def with_maps(pipe: Any, recipe: Recipe, side: int) -> Recipe:
    """The recipe with the maps of the pipeline's autoencoder."""
    method: Any = recipe.resolution
    return replace(recipe, resolution=accel.resolution.measure(pipe, drawn(0, 16, side), method))


def table(found: dict[str, list[tuple[float, bool, float]]]) -> str:
    whole = np.mean([seconds for seconds, *_ in found["unaccelerated"]])
    lines = ["| | times as fast | show their prompt | PSNR |", "| --- | --- | --- | --- |"]
    for name, clips in found.items():
        seconds, right, decibels = zip(*clips, strict=True)
        near = "" if name == "unaccelerated" else f"{np.mean(decibels):.1f} dB"
        lines.append(f"| {name} | {whole / np.mean(seconds):.2f} | {sum(right)} of {len(right)} | {near} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Small sizes at high noise, beside fewer steps and the cache.")
    for option, default in {"prompts": 8, "side": 128, "frames": 17, "steps": 50}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--prompt-seed", type=int, default=7)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help="some of the rows, by name")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pipe = accel.pocket.load("video")
    pipe.set_progress_bar_config(disable=True)
    size = {"height": options.side, "width": options.side, "num_frames": options.frames}
    rows = {
        name: (share, with_maps(pipe, recipe, options.side) if name.startswith(MEASURED) else recipe)
        for name, (share, recipe) in (ROWS | LONG).items()
        if name in ("unaccelerated", *options.rows)
    }
    found: dict[str, list[tuple[float, bool, float]]] = {}
    reference: Any = None
    for seed, prompt in enumerate(accel.pocket.prompts(options.prompts, seed=options.prompt_seed)):
        for name, (share, recipe) in rows.items():
            with accel.accelerate(pipe, recipe):
                start = time.process_time()
                frames = clip(pipe, prompt, seed, size, round(share * options.steps))
                seconds = time.process_time() - start
            if name == "unaccelerated":
                reference = frames
            right = accel.pocket.verify(frames, prompt).correct
            found.setdefault(name, []).append((seconds, right, psnr(frames, reference)))
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
