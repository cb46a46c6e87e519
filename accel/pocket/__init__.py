"""Tiny trained models that ship with the package, their captions, and a program that checks what they generate.

`load("video")` returns a pipeline, `load("few")` and `load("small")` its distilled and its smaller sibling,
`load("image")` one that makes pictures, `prompts(n, seed)` captions for them, `verify(frames, prompt)` what a clip or a
picture shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accel.pocket.scenes import prompts
from accel.pocket.verifier import Verification, verify

__all__ = ["Verification", "folder", "load", "pipeline_class", "prompts", "verify"]

MODELS = ("video", "few", "small", "image")


def load(name: str = "video") -> Any:
    """The pocket model called `name` as a diffusers pipeline on the CPU, in float32.

    "video" is a WanPipeline whose calls default to 17 frames of 64x64 in 50 steps with guidance 4. Two siblings have
    the same latents, captions and calls: "few" was distilled from it to 4 steps without guidance, and "small" costs a
    fraction of it per step. "image" is a StableDiffusionPipeline of 64x64 in 50 steps with guidance 6. Each call loads
    anew, so two pipelines share nothing. Raises ValueError for another name.
    """
    return pipeline_class(name).from_folder(folder(name))


def pipeline_class(name: str) -> Any:
    """The class of the pipeline that `load(name)` returns; no weights are loaded. Raises ValueError as `load` does."""
    if name not in MODELS:
        raise ValueError(f"there is no pocket model {name!r}; choose one of: {', '.join(MODELS)}.")
    if name == "image":
        from accel.pocket.image_pipeline import StableDiffusionPocketPipeline

        return StableDiffusionPocketPipeline
    from accel.pocket.pipeline import WanPocketPipeline

    return WanPocketPipeline


def folder(name: str) -> Path:
    """Where the files of a pocket model are, or "refiner", which `FlowTurbo` takes for the model "video"."""
    path = Path(__file__).parent / name
    if name not in (*MODELS, "refiner"):
        raise ValueError(f"there are no pocket files {name!r}; choose one of: {', '.join((*MODELS, 'refiner'))}.")
    return path
