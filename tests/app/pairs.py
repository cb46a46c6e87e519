"""Pairs that no model has made, for tests of what is drawn of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from accel.app.pair import Pair, Side
from accel.app.settings import StudioSettings
from accel.presets import resolve


def call(step: int, stream: str = "cond", action: str = "computed", reason: str = "it must") -> dict[str, Any]:
    return {
        "run": 0,
        "step": step,
        "position": step,
        "sigma": 1.0 - step / 10,
        "stream": stream,
        "denoiser": "transformer",
        "action": action,
        "reason": reason,
        "seconds": 0.25,
    }


def side(folder: Path, frames: int = 5, height: int = 6, width: int = 8, seconds: float = 2.0) -> Side:
    """A clip in which every pixel of a frame has its own value."""
    pixels = np.random.default_rng(frames).integers(0, 256, (frames, height, width, 3), np.uint8)
    path = folder / "clip.mp4"
    path.write_bytes(b"video")
    times = {"total": seconds, "before": 0.1, "denoise": seconds - 0.2, "after": 0.1}
    return Side(pixels, path, times, [call(0), call(1)], {"cond": "██"}, "the report & more")


def pair(folder: Path, prompt: str = "a <b>bold</b> prompt", **changes: Any) -> Pair:
    settings = StudioSettings(prompt=prompt, recipe=resolve("fast"))
    metrics: dict[str, float | None] = {
        "psnr": 31.26,
        "ssim": 0.9512,
        "flicker_difference": 0.0021,
        "speedup": 2.5,
        "denoise_speedup": 2.75,
    }
    made = Pair(
        key="k",
        settings=settings,
        baseline=side(folder, seconds=5.0),
        accelerated=side(folder),
        metrics=metrics,
        psnr_per_frame=(33.0, 32.0, 28.5, 31.0, 100.0),
        worst_frame=2,
        baseline_reused=True,
        timing_note="At another pace.",
        baseline_when=0.0,
        fps=8.0,
        when=0.0,
    )
    return replace(made, **changes)
