"""Canvases larger than trained, in windows that move: `python -m benchmarks.canvases`.

The pocket image model at 64x256 (trained at 64x64), and the pocket video model at 51 frames (trained at 17), each as it
is and with `ShiftedWindows`, whose windows stay in their places while noise is high, or always move as published. Down
to which level they stay was chosen on the eight prompts of seed 7, so others are the default. Every part of the trained
size is judged by `accel.pocket.verify`, as pictures and clips of that size are. A seam is a step between neighbouring
columns (frames) where two parts meet; beside it are the steps inside of parts at the same place of the autoencoder's
patches, whose edges show.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

import accel
from accel import Recipe, ShiftedWindows

PATCH = 4  # columns, and frames, that the autoencoders of both models take together


class Judged(NamedTuple):
    """One canvas: the share of its parts that show their prompt, the step at seams and inside, processor time."""

    right: float
    seam: float
    inside: float
    seconds: float


def judged(frames: np.ndarray[Any, Any], prompt: str, axis: int, size: int, seconds: float) -> Judged:
    """frames: (frames, height, width, 3) in [0, 1]. axis: along which it is larger than trained."""
    parts = frames.shape[axis] // size
    right = [accel.pocket.verify(part, prompt).correct for part in np.split(frames, parts, axis)]
    steps = np.abs(np.diff(frames, axis=axis)).mean(tuple(other for other in range(4) if other != axis))
    meet: np.ndarray[Any, Any] = np.arange(1, parts) * size - 1
    places = np.arange(len(steps))
    alike = np.isin(places % PATCH, meet % PATCH) & ~np.isin(places, meet)
    seam, inside = (float(steps[some].mean()) if parts > 1 else float("nan") for some in (meet, alike))
    return Judged(float(np.mean(right)), seam, inside, seconds)


def picture(pipe: Any, prompt: str, seed: int, steps: int, width: int) -> tuple[np.ndarray[Any, Any], float]:
    return _timed(lambda **call: pipe(prompt, height=64, width=width, **call).images, seed, steps)


def clip(pipe: Any, prompt: str, seed: int, steps: int, frames: int) -> tuple[np.ndarray[Any, Any], float]:
    found, seconds = _timed(
        lambda **call: pipe(prompt, num_frames=-(-(frames - 1) // 4) * 4 + 1, **call).frames[0], seed, steps
    )
    return found[:frames], seconds


def _timed(call: Callable[..., Any], seed: int, steps: int) -> tuple[np.ndarray[Any, Any], float]:
    start, generator = time.process_time(), torch.Generator().manual_seed(seed)
    frames = np.asarray(call(generator=generator, num_inference_steps=steps, output_type="np"))
    return frames, time.process_time() - start


def rows(options: argparse.Namespace) -> Iterator[tuple[str, list[Judged]]]:
    """Each kind of canvas, as it is and in windows."""
    image, video = (accel.pocket.load(name) for name in ("image", "video"))
    latents, clips = ShiftedWindows(window=16), ShiftedWindows(window=0, frames=5)
    for width in (64, 128, 256) if "image" in options.models else ():
        for name, recipe in recipes(latents, width > 64).items():
            yield f"64x{width}{name}", run(options, image, recipe, picture, width, 2, 64)
    for frames in (17, 34, 51) if "video" in options.models else ():
        for name, recipe in recipes(clips, frames > 17).items():
            yield f"{frames} frames{name}", run(options, video, recipe, clip, frames, 0, 17)


def recipes(windows: ShiftedWindows, larger: bool) -> Mapping[str, Recipe]:
    found = {"": Recipe()}
    if larger:
        found[", in windows"] = Recipe(resolution=windows)
    if larger and windows.window:  # in time they always move
        found[", always moving"] = Recipe(resolution=replace(windows, still=1.0))
    return found


def run(
    options: argparse.Namespace,
    pipe: Any,
    recipe: Recipe,
    render: Callable[..., Any],
    length: int,
    axis: int,
    size: int,
) -> list[Judged]:
    pipe.set_progress_bar_config(disable=True)
    found = []
    with accel.accelerate(pipe, recipe):
        for seed, prompt in enumerate(accel.pocket.prompts(options.prompts, options.prompt_seed)):
            frames, seconds = render(pipe, prompt, seed, options.steps, length)
            found.append(judged(frames, prompt, axis, size, seconds))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pictures and clips larger than trained, in windows that move.")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--prompt-seed", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--models", nargs="*", default=["image", "video"], choices=["image", "video"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| canvas | parts that show the prompt | step at seams | inside | seconds |\n| --- | --- | --- | --- | --- |")
    for name, found in rows(options):
        right, seam, inside, seconds = np.mean(found, 0)
        steps = "| " if np.isnan(seam) else f"{seam:.4f} | {inside:.4f}"
        print(f"| {name} | {right:.0%} | {steps} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
