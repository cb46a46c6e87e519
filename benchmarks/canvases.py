"""Canvases larger than trained, in windows that move: `python -m benchmarks.canvases`.

The pocket image model at 64x256 (trained at 64x64), and the pocket video model at 51 frames (trained at 17), each as it
is and with `ShiftedWindows`. A picture's windows stay in their places while noise is high, and a clip is one window
then; or they always move, as published. The levels down to which that is so were chosen on the eight prompts of seed 7,
so others are the default. Every part of the trained size is judged by `accel.pocket.verify`, as pictures and clips of
that size are. A motion that takes the whole clip is a third as fast as a trained one in each of three parts, and may
not be one to that judge: "of one story" judges the motion of the whole clip, and everything else part by part. A seam
is a step between neighbouring columns (frames) where two parts meet; beside it are the steps inside of parts at the
same place of the autoencoder's patches, whose edges show.
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
from accel.measure.intervals import of_share

PATCH = 4  # columns, and frames, that the autoencoders of both models take together
TRAINED = 17  # frames, which are LATENT in latents
LATENT = 5


class Judged(NamedTuple):
    """One canvas: the share of its parts that show their prompt, by themselves and as parts of one story, the step at
    seams and inside, processor time."""

    right: float
    story: float
    seam: float
    inside: float
    seconds: float


def judged(frames: np.ndarray[Any, Any], prompt: str, axis: int, size: int, seconds: float) -> Judged:
    """frames: (frames, height, width, 3) in [0, 1]. axis: along which it is larger than trained."""
    parts = frames.shape[axis] // size
    found = [accel.pocket.verify(part, prompt).matches for part in np.split(frames, parts, axis)]
    whole = accel.pocket.verify(frames, prompt).matches
    right = np.mean([all(part.values()) for part in found])
    story = np.mean([all(value for name, value in part.items() if name != "motion") for part in found])
    steps = np.abs(np.diff(frames, axis=axis)).mean(tuple(other for other in range(4) if other != axis))
    meet: np.ndarray[Any, Any] = np.arange(1, parts) * size - 1
    places = np.arange(len(steps))
    alike = np.isin(places % PATCH, meet % PATCH) & ~np.isin(places, meet)
    seam, inside = (float(steps[some].mean()) if parts > 1 else float("nan") for some in (meet, alike))
    return Judged(float(right), float(story) * whole.get("motion", True), seam, inside, seconds)


def picture(pipe: Any, prompt: str, seed: int, steps: int, width: int) -> tuple[np.ndarray[Any, Any], float]:
    return _timed(lambda **call: pipe(prompt, height=64, width=width, **call).images, seed, steps)


def clip(pipe: Any, prompt: str, seed: int, steps: int, frames: int) -> tuple[np.ndarray[Any, Any], float]:
    """As many latent frames as whole windows have, whose clip is longer by the single picture that each begins with."""
    latents = LATENT * frames // TRAINED
    found, seconds = _timed(lambda **call: pipe(prompt, num_frames=4 * latents - 3, **call).frames[0], seed, steps)
    return found[:frames], seconds


def _timed(call: Callable[..., Any], seed: int, steps: int) -> tuple[np.ndarray[Any, Any], float]:
    start, generator = time.process_time(), torch.Generator().manual_seed(seed)
    frames = np.asarray(call(generator=generator, num_inference_steps=steps, output_type="np"))
    return frames, time.process_time() - start


def rows(options: argparse.Namespace) -> Iterator[tuple[str, list[Judged]]]:
    """Each kind of canvas, as it is and in windows; those that were asked for."""
    image, video = (accel.pocket.load(name) for name in ("image", "video"))
    for name, recipe, *canvas in kinds(options, image, video):
        if options.rows is None or any(word in name for word in options.rows):
            yield name, run(options, recipe, *canvas)


def kinds(options: argparse.Namespace, image: Any, video: Any) -> Iterator[tuple[str, Recipe, Any, Any, int, int, int]]:
    """Name, recipe, pipeline, what renders, length, axis and trained size."""
    for width in (64, 128, 256) if "image" in options.models else ():
        for name, recipe in recipes(ShiftedWindows(16), "always moving", still=1.0).items():
            if width > 64 or not name:
                yield f"64x{width}{name}", recipe, image, picture, width, 2, 64
    for frames in options.frames if "video" in options.models else ():
        for name, recipe in recipes(ShiftedWindows(0, LATENT, whole=0.7), "cut from the start", whole=1.0).items():
            if frames > TRAINED or not name:
                yield f"{frames} frames{name}", recipe, video, clip, frames, 0, TRAINED


def recipes(windows: ShiftedWindows, other: str, **settings: float) -> Mapping[str, Recipe]:
    return {
        "": Recipe(),
        ", in windows": Recipe(resolution=windows),
        f", {other}": Recipe(resolution=replace(windows, **settings)),
    }


def run(
    options: argparse.Namespace,
    recipe: Recipe,
    pipe: Any,
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
    parser.add_argument("--frames", type=int, nargs="*", default=[17, 34, 51], help="multiples of 17")
    parser.add_argument("--rows", nargs="*", help="words that the names of the rows have; all rows if none are given")
    parser.add_argument("--models", nargs="*", default=["image", "video"], choices=["image", "video"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| canvas | parts that show the prompt | of one story | step at seams | inside | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, found in rows(options):
        right, story, seam, inside, seconds = np.mean(found, 0)
        shares = " | ".join(share(part, len(found)) for part in (right, story))
        steps = "| " if np.isnan(seam) else f"{seam:.4f} | {inside:.4f}"
        print(f"| {name} | {shares} | {steps} | {seconds:.1f} |", flush=True)


def share(part: float, prompts: int) -> str:
    """With the 95 % interval of chance. The parts of a canvas go together, so its prompt counts as one."""
    low, high = of_share(part * prompts, prompts)
    return f"{part:.0%} [{100 * low:.0f}, {100 * high:.0f}] of {prompts}"


if __name__ == "__main__":
    main()
