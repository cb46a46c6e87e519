"""Tiny pipelines that start from pictures and take LoRA weights, each in a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from accel.app.settings import StudioSettings
from accel.recipe import Recipe
from tests.tiny.zoo.case import Case

CONTROLLED = "StableDiffusionControlNetImg2ImgPipeline"
RECIPE = {"cache": {"method": "FixedInterval", "interval": 2, "warmup": 1, "final": 0, "min_steps": 1}}


def model_folder(folder: Path, kind: str = CONTROLLED) -> str:
    """A folder that says which class its pipeline has, as `class_of` reads it."""
    model = folder / kind
    model.mkdir()
    (model / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return str(model)


def load(model: str, **_: Any) -> Any:
    """The tiny pipeline of the class that the folder is called after."""
    return Case(Path(model).name, words=True).build()


def picture(path: Path, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def settings(model: str, **inputs: Any) -> StudioSettings:
    """Four steps of 64 pixels with every other output forecast."""
    return StudioSettings(model, "a thing", steps=4, recipe=Recipe.from_dict(RECIPE), **inputs)
