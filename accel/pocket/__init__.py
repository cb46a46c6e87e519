"""Tiny trained models that ship with the package, their captions, and a program that checks what they generate.

`load("video")` returns a pipeline, `load("few")` and `load("small")` its distilled and its smaller sibling,
`prompts(n, seed)` captions for them, `verify(frames, prompt)` what a clip shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accel.pocket.scenes import prompts
from accel.pocket.verifier import Verification, verify

if TYPE_CHECKING:
    from accel.pocket.pipeline import WanPocketPipeline

__all__ = ["Verification", "folder", "load", "prompts", "verify"]

MODELS = ("video", "few", "small")


def load(name: str = "video") -> WanPocketPipeline:
    """The pocket model called `name` as a diffusers pipeline on the CPU, in float32.

    "video" is a WanPipeline whose calls default to 17 frames of 64x64 in 50 steps with guidance 6. Two siblings have
    the same latents, captions and calls: "few" was distilled from it to 4 steps without guidance, and "small" costs a
    fraction of it per step. Each call loads anew, so two pipelines share nothing. Raises ValueError for another name.
    """
    if name not in MODELS:
        raise ValueError(f"there is no pocket model {name!r}; choose one of: {', '.join(MODELS)}.")
    from accel.pocket.pipeline import WanPocketPipeline

    return WanPocketPipeline.from_folder(Path(__file__).parent / name)


def folder(name: str) -> Path:
    """Where the files of a pocket model are, or "refiner", which `FlowTurbo` takes for the model "video"."""
    path = Path(__file__).parent / name
    if name not in (*MODELS, "refiner"):
        raise ValueError(f"there are no pocket files {name!r}; choose one of: {', '.join((*MODELS, 'refiner'))}.")
    return path
