"""Does a first run at home keep the subject? `python -m benchmarks.enlarging` asks the pocket video model at 128x128.

Each row makes the same clips: processor time beside the unaccelerated pipeline's at 128x128, and how many show what
their prompt says (`accel.pocket.verify`). The steps of an enlarged clip, in both runs, are fewer, so that it takes no
more time. The table is printed again after each prompt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import accel
from accel import Recipe
from accel.measure.metrics import to_frames

HOME = 64
FRAMES = 17


def plain(pipe: Any, prompt: str, seed: int, *, side: int, steps: int, recipe: Any) -> Any:
    generator = torch.Generator("cpu").manual_seed(seed)
    with accel.accelerate(pipe, recipe):
        return pipe(prompt, height=side, width=side, num_frames=FRAMES, num_inference_steps=steps, generator=generator)


def enlarged(pipe: Any, prompt: str, seed: int, *, side: int, steps: int, recipe: Any) -> Any:
    return accel.enlarge(
        pipe, prompt, seed=seed, height=side, width=side, by=side // HOME, recipe=recipe, num_frames=FRAMES,
        num_inference_steps=steps,
    )  # fmt: skip


def rows(side: int) -> dict[str, Callable[..., Any]]:
    none = Recipe()
    return {
        f"{side}x{side}, 50 steps": partial(plain, side=side, steps=50, recipe=none),
        "enlarged, 38 steps": partial(enlarged, side=side, steps=38, recipe=none),
        f"{side}x{side}, balanced": partial(plain, side=side, steps=50, recipe="balanced"),
        "enlarged, balanced": partial(enlarged, side=side, steps=50, recipe="balanced"),
        f"{HOME}x{HOME}, 50 steps": partial(plain, side=HOME, steps=50, recipe=none),
    }


def table(found: dict[str, list[tuple[float, bool]]]) -> str:
    whole = np.mean([seconds for seconds, _ in next(iter(found.values()))])
    lines = ["| | time | show their prompt |", "| --- | --- | --- |"]
    for name, clips in found.items():
        seconds, right = zip(*clips, strict=True)
        lines.append(f"| {name} | {np.mean(seconds) / whole:.2f} | {sum(right)} of {len(right)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Clips of twice the size, with and without a first run at home.")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--side", type=int, default=2 * HOME)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pipe = accel.pocket.load("video")
    pipe.set_progress_bar_config(disable=True)
    found: dict[str, list[tuple[float, bool]]] = {}
    for seed, prompt in enumerate(accel.pocket.prompts(options.prompts, seed=11)):
        for name, make in rows(options.side).items():
            start = time.process_time()
            frames = to_frames(make(pipe, prompt, seed))
            seconds = time.process_time() - start
            found.setdefault(name, []).append((seconds, accel.pocket.verify(frames, prompt).correct))
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
