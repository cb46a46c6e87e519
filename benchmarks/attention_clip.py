"""What attention patterns keep of a clip, and in what time: `python -m benchmarks.attention_clip`.

The pocket video model at its largest, 128x128 and 33 frames (2304 tokens), where attention is most of a step. Processor
time and PSNR beside the same clips with dense attention. The table is printed again after each prompt.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

import accel
from accel.attention import PooledKeys, SlidingTile, TopKBlocks, WindowResidual
from accel.measure.metrics import psnr
from accel.method import Method

TEMPORAL = PooledKeys(factor=(3, 1, 1))
ROWS: list[Method] = [
    PooledKeys(),
    TEMPORAL,
    PooledKeys(warmup=0.2, factor=(3, 1, 1)),
    *(SlidingTile(density) for density in (0.15, 0.3)),
    *(TopKBlocks(density) for density in (0.15, 0.3)),
    WindowResidual(),
    WindowResidual(PooledKeys(factor=(9, 1, 1))),
]


def clip(pipe: Any, prompt: str, seed: int, steps: int) -> tuple[Any, float]:
    """The frames, and the processor time that they took."""
    start, generator = time.process_time(), torch.Generator().manual_seed(seed)
    size = {"height": 128, "width": 128, "num_frames": 33}
    frames = pipe(prompt, generator=generator, num_inference_steps=steps, **size).frames[0]
    return frames, time.process_time() - start


def table(found: dict[str, list[tuple[float, float]]]) -> str:
    lines = ["| attention | times as fast | PSNR |", "| --- | --- | --- |"]
    for name, clips in found.items():
        faster, decibels = np.mean(clips, 0)
        lines.append(f"| `{name}` | {faster:.2f} | {decibels:.1f} dB |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Attention patterns on the pocket clip: speed and fidelity.")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pipe = accel.pocket.load("video")
    pipe.set_progress_bar_config(disable=True)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed, prompt in enumerate(accel.pocket.prompts(options.prompts, seed=7)):
        dense, whole = clip(pipe, prompt, seed, options.steps)
        for method in ROWS:
            with accel.accelerate(pipe, accel.Recipe(attention=method)):
                frames, seconds = clip(pipe, prompt, seed, options.steps)
            found.setdefault(str(method), []).append((whole / seconds, psnr(frames, dense)))
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
