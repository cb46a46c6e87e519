"""Crops of real photographs and pictures from instruments: those that ship inside scikit-image, all free to use."""

from __future__ import annotations

import functools

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from benchmarks.judges.language import Language

SIDE = 32
PICTURES = {
    "astronaut": "astronaut",
    "cat": "chelsea",
    "coffee": "coffee",
    "rocket": "rocket",
    "galaxies": "hubble_deep_field",
    "retina": "retina",
    "tissue": "immunohistochemistry",
    "photographer": "camera",
    "grass": "grass",
    "gravel": "gravel",
    "bricks": "brick",
    "coins": "coins",
}
"""Words, and what scikit-image calls the picture."""
DISTANCES = {"near": 0.2, "middle": 0.4, "far": 0.8}
"""How much of the shorter side a crop shows."""
LIGHTS = {"plain": (1.0, 1.0, 1.0), "warm": (1.1, 0.95, 0.7), "cold": (0.7, 0.95, 1.15)}
LANGUAGE = Language((tuple(PICTURES), tuple(DISTANCES), tuple(LIGHTS)))


def draw(rng: np.random.Generator, words: tuple[str, ...]) -> NDArray[np.float32]:
    """A picture (32, 32, 3) in [0, 1] such as "cat near warm"; half of them are mirrored."""
    picture, distance, light = words
    source = photograph(picture)
    side = DISTANCES[distance] * rng.uniform(0.85, 1.15) * min(source.size)
    left, top = rng.uniform(0, 1, 2) * (np.asarray(source.size) - side)
    crop = cut(source, left, top, side, SIDE)
    return lit(crop[:, ::-1] if rng.uniform() < 0.5 else crop, light, rng)


@functools.cache
def photograph(word: str) -> Image.Image:
    """In colour, its shorter side 400 pixels at most."""
    picture = Image.fromarray(getattr(skimage.data, PICTURES[word])()).convert("RGB")
    picture.thumbnail((picture.width * 400 // min(picture.size), picture.height * 400 // min(picture.size)))
    return picture


def cut(source: Image.Image, left: float, top: float, side: float, size: int) -> NDArray[np.float32]:
    """A square of the picture, `size` pixels wide, in [0, 1]."""
    box = (left, top, left + side, top + side)
    small = source.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return np.asarray(np.asarray(small) / 255, dtype=np.float32)


def lit(pictures: NDArray[np.float32], light: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """The same in light of another colour and strength."""
    gain = np.asarray(LIGHTS[light]) * rng.uniform(0.9, 1.1)
    return np.clip(pictures * gain, 0, 1).astype(np.float32)
