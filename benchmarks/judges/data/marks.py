"""Moving characters over a ground of noise: one that slides, turns, grows or shrinks, and a small one that drifts."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from benchmarks.judges.data.glyphs import FACES, contrasting, face
from benchmarks.judges.language import Language

SIDE, FRAMES = 32, 8
MOVES = {
    "slides": (7.0, 0.0, 1.0),
    "returns": (-7.0, 0.0, 1.0),
    "spins": (0.0, 130.0, 1.0),
    "unwinds": (0.0, -130.0, 1.0),
    "grows": (0.0, 0.0, 1.9),
    "shrinks": (0.0, 0.0, 1 / 1.9),
}
"""Pixels to the right of the middle at the end, degrees in all, and by what the size changes."""
CHARACTERS = tuple("AEHKRSX2&?")
LANGUAGE = Language((CHARACTERS, tuple(MOVES)))


def draw(rng: np.random.Generator, words: tuple[str, ...]) -> NDArray[np.float32]:
    """A clip (8, 32, 32, 3) in [0, 1] such as "K spins"."""
    character, move = words
    ground = _ground(rng)
    clip = np.broadcast_to(ground, (FRAMES, SIDE, SIDE, 3)).copy()
    drifting = _path(rng.uniform(4, 28, 2), rng.uniform(-10, 10, 2), float(rng.uniform(0, 360)), 0.0, 0.3, 1.0)
    _stamp(clip, rng, str(rng.choice(CHARACTERS)), drifting, 0.6)
    slide, turn, growth = MOVES[move]
    start = rng.uniform(14, 18, 2) - [slide, 0]
    scale = rng.uniform(0.68, 0.78) / growth**0.5
    path = _path(start, np.asarray([2 * slide, 0]), rng.uniform(-12, 12) - turn / 2, turn, scale, growth)
    return np.clip(_stamp(clip, rng, character, path, 1.0), 0, 1)


def _path(
    start: NDArray[np.float64], travel: NDArray[np.float64], angle: float, turn: float, scale: float, growth: float
) -> NDArray[np.float64]:
    """For each frame x, y, angle and size."""
    time = np.linspace(0, 1, FRAMES)
    places = [start[i] + travel[i] * time for i in (0, 1)]
    return np.stack([*places, angle + turn * time, scale * growth**time], axis=1)


def _stamp(
    clip: NDArray[np.float32], rng: np.random.Generator, character: str, path: NDArray[np.float64], strength: float
) -> NDArray[np.float32]:
    mask = _mask(character, int(rng.integers(len(FACES.split()))))
    colour = contrasting(rng, clip.mean((0, 1, 2)))
    for frame, (x, y, angle, scale) in zip(clip, path, strict=True):
        c, s = np.cos(np.radians(angle)) / scale, np.sin(np.radians(angle)) / scale
        matrix = (c, s, SIDE / 2 - c * x - s * y, -s, c, SIDE / 2 + s * x - c * y)
        turned = mask.transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        frame += strength * np.asarray(turned, dtype=np.float32)[..., None] / 255 * (colour - frame)
    return clip


@functools.cache
def _mask(character: str, index: int) -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).text((SIDE / 2, SIDE / 2), character, fill=255, font=face(index, 28), anchor="mm")
    return mask


def _ground(rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise between two colours."""
    noise = gaussian_filter(rng.standard_normal((SIDE, SIDE)), rng.uniform(2, 4), mode="wrap")
    blend = np.clip(0.5 + 0.3 * noise / noise.std(), 0, 1)[..., None]
    first = rng.uniform(0, 1, 3)
    second = np.clip(first + rng.normal(0, 0.22, 3), 0, 1)
    return np.asarray(first * (1 - blend) + second * blend, dtype=np.float32)
