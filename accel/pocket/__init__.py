"""Tiny trained models that ship with the package, their captions, and a program that checks what they generate.

`load("video")` returns a pipeline, `prompts(n, seed)` captions for it, `verify(frames, prompt)` what a clip shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accel.pocket.scenes import prompts
from accel.pocket.verifier import Verification, verify

if TYPE_CHECKING:
    from accel.pocket.pipeline import WanPocketPipeline

__all__ = ["Verification", "load", "prompts", "verify"]

MODELS = ("video",)


def load(name: str = "video") -> WanPocketPipeline:
    """The pocket model called `name` as a diffusers pipeline on the CPU, in float32.

    "video" is a WanPipeline whose calls default to 17 frames of 64x64 in 50 steps. Each call loads anew, so two
    pipelines share nothing. Raises ValueError for another name.
    """
    if name not in MODELS:
        raise ValueError(f"there is no pocket model {name!r}; choose one of: {', '.join(MODELS)}.")
    from accel.pocket.pipeline import WanPocketPipeline

    return WanPocketPipeline.from_folder(Path(__file__).parent / name)
