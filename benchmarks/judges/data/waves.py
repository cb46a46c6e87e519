"""Fields in motion without any object: rings from points, swell from two sides, and noise that drifts and boils."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.judges.data.cells import PALETTES, coloured
from benchmarks.judges.language import Language

Field = NDArray[np.float32]

SIDE, FRAMES = 32, 13
SPEEDS = {"slow": 0.6, "fast": 1.6}
"""Radians or pixels for each frame."""


def rings(rng: np.random.Generator, speed: float) -> Field:
    """Circular waves that run away from two or three points and cross each other."""
    field = np.zeros((FRAMES, SIDE, SIDE))
    for _ in range(int(rng.integers(2, 4))):
        centre = rng.uniform(0, SIDE, 2)
        distance = np.hypot(*(_grid() - centre[:, None, None]))
        field += np.sin(_phase(rng, distance / rng.uniform(2.0, 3.2), speed)) * np.exp(-distance / 30)
    return _levels(field)


def swell(rng: np.random.Generator, speed: float) -> Field:
    """Three plane waves from about one side."""
    field = np.zeros((FRAMES, SIDE, SIDE))
    main = rng.uniform(0, 2 * np.pi)
    for strength in (1.0, 0.7, 0.5):
        angle = main + rng.normal(0, 0.5)
        along = np.cos(angle) * _grid()[0] + np.sin(angle) * _grid()[1]
        field += strength * np.sin(_phase(rng, along / rng.uniform(2.0, 5.0), speed))
    return _levels(field)


def smoke(rng: np.random.Generator, speed: float) -> Field:
    """Smooth noise that changes while it drifts."""
    noise = rng.standard_normal((FRAMES, SIDE, SIDE))
    calm = gaussian_filter(noise, (4.0 / speed, 3.5, 3.5), mode="wrap")
    drift = rng.uniform(-1, 1, 2) * speed
    moved = [np.roll(frame, tuple(np.round(drift * i).astype(int)), (0, 1)) for i, frame in enumerate(calm)]
    return _levels(np.stack(moved))


def turning(rng: np.random.Generator, speed: float) -> Field:
    """A spiral of a few arms that turns about a point."""
    centre = rng.uniform(0.3, 0.7, 2) * SIDE
    y, x = _grid() - centre[:, None, None]
    arms, tightness = int(rng.integers(2, 5)), rng.uniform(2.5, 5.0) * rng.choice([-1, 1])
    return _levels(np.sin(_phase(rng, arms * np.arctan2(y, x) + np.hypot(x, y) / tightness, speed)))


KINDS: dict[str, Callable[[np.random.Generator, float], Field]] = {
    "rings": rings,
    "swell": swell,
    "smoke": smoke,
    "spirals": turning,
}
LANGUAGE = Language((tuple(SPEEDS), tuple(PALETTES), tuple(KINDS)))


def draw(rng: np.random.Generator, words: tuple[str, ...]) -> Field:
    """A clip (13, 32, 32, 3) in [0, 1] such as "fast ember rings"."""
    speed, palette, kind = words
    field = KINDS[kind](rng, SPEEDS[speed] * rng.uniform(0.85, 1.15))
    shade = gaussian_filter(rng.standard_normal((SIDE, SIDE)), 7, mode="wrap")
    return coloured(np.clip(field + 0.12 * shade / shade.std(), 0, 1), PALETTES[palette], rng)


@functools.cache
def _grid() -> Field:
    return np.stack(np.meshgrid(*[np.arange(SIDE, dtype=np.float32)] * 2, indexing="ij"))


def _phase(rng: np.random.Generator, place: Field, speed: float) -> Field:
    """Phases (frames, height, width) of a wave that has these phases in space."""
    time = np.arange(FRAMES)[:, None, None] * speed * rng.uniform(0.8, 1.2)
    return np.asarray(place[None] - time + rng.uniform(0, 2 * np.pi))


def _levels(field: NDArray[np.floating[Any]]) -> Field:
    return np.asarray(np.clip(0.5 + 0.28 * (field - field.mean()) / field.std(), 0, 1), dtype=np.float32)
