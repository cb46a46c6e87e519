"""Does a first run at home keep the subject? `python -m benchmarks.enlarging` asks the pocket video model at 128x128.

Each row makes clips of the same prompts: processor time beside the unaccelerated pipeline's at 128x128, and how many
show what their prompt says (`accel.pocket.verify`). The steps of an enlarged clip, in both runs, are fewer, so that it
takes no more time. Beside them is what begins at a smaller size (`CoarseToFine`), and the best of five seeds of that,
by a verifier that is not the judge. The table is printed again after each prompt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import accel
from accel import Recipe
from accel.measure.metrics import Clip, to_frames
from accel.presets import PRESETS
from accel.resolution import CoarseToFine
from benchmarks.best_of import DRAFT, share
from benchmarks.coarse import with_maps
from benchmarks.rankers import Ranker, ranker
from benchmarks.second_verifier import trained

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


def best(pipe: Any, prompt: str, seed: int, *, side: int, recipe: Recipe, ranked: Callable[[], Ranker]) -> Any:
    """The best of five seeds, by a verifier that knows clips of home's size."""
    score = ranked()

    def small(frames: Clip, prompt: str) -> float:
        count, height, width, _ = frames.shape
        blocks = frames.reshape(count, HOME, height // HOME, HOME, width // HOME, 3)
        return score(blocks.mean((2, 4)), prompt)

    size: dict[str, Any] = {"height": side, "width": side, "num_frames": FRAMES}
    seeds = range(5 * seed, 5 * seed + 5)
    return accel.best_of(pipe, prompt, seeds, verifier=small, budget=0.72, draft=recipe, **size).output


def rows(side: int, ranked: Callable[[], Ranker], coarse: Recipe) -> dict[str, Callable[..., Any]]:
    none, few = Recipe(), replace(coarse, cache=DRAFT.cache)
    return {
        f"{side}x{side}, 50 steps": partial(plain, side=side, steps=50, recipe=none),
        "enlarged, 38 steps": partial(enlarged, side=side, steps=38, recipe=none),
        f"{side}x{side}, balanced": partial(plain, side=side, steps=50, recipe="balanced"),
        "enlarged, balanced": partial(enlarged, side=side, steps=50, recipe="balanced"),
        f"{side}x{side}, `CoarseToFine` and cache": partial(plain, side=side, steps=50, recipe=coarse),
        f"{side}x{side}, the best of five of them": partial(best, side=side, recipe=few, ranked=ranked),
        f"{HOME}x{HOME}, 50 steps": partial(plain, side=HOME, steps=50, recipe=none),
    }


def table(found: dict[str, list[tuple[float, bool]]]) -> str:
    whole = np.mean([seconds for seconds, _ in next(iter(found.values()))])
    lines = ["| | time | show their prompt |", "| --- | --- | --- |"]
    for name, clips in found.items():
        seconds, right = zip(*clips, strict=True)
        lines.append(f"| {name} | {np.mean(seconds) / whole:.2f} | {share(right)} |")
    return "\n".join(lines)


def _asked(name: str, words: list[str] | None) -> bool:
    return words is None or any(word in name for word in words)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Clips of twice the size, with and without a first run at home.")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--prompt-seed", type=int, default=11)
    parser.add_argument("--side", type=int, default=2 * HOME)
    parser.add_argument("--out", type=Path, default=Path("out/best-of"), help="folder of the second verifier")
    parser.add_argument("--rows", nargs="*", help="words that the names of the rows have; the first row is always made")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pipe = accel.pocket.load("video")
    pipe.set_progress_bar_config(disable=True)
    ranked = cache(lambda: ranker("second", trained(options.out, pipe.vae)))
    coarse = with_maps(pipe, replace(PRESETS["balanced"].recipe, resolution=CoarseToFine(0.5)), options.side)
    made = rows(options.side, ranked, coarse)
    chosen = {n: make for at, (n, make) in enumerate(made.items()) if not at or _asked(n, options.rows)}
    if any("best of" in name for name in chosen):
        ranked()  # trained, which takes minutes, before anything is timed
    found: dict[str, list[tuple[float, bool]]] = {}
    for seed, prompt in enumerate(accel.pocket.prompts(options.prompts, seed=options.prompt_seed)):
        for name, make in chosen.items():
            start = time.process_time()
            frames = to_frames(make(pipe, prompt, seed))
            seconds = time.process_time() - start
            found.setdefault(name, []).append((seconds, accel.pocket.verify(frames, prompt).correct))
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
