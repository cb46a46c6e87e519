"""Cellular patterns without any object: tiles of a mosaic, bubbles, spots, or mazes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.judges.language import Language

Field = NDArray[np.float32]

SIDE = 32
PALETTES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "ember": ((0.08, 0.02, 0.02), (0.75, 0.15, 0.05), (0.98, 0.75, 0.25)),
    "moss": ((0.05, 0.12, 0.06), (0.25, 0.5, 0.15), (0.85, 0.9, 0.55)),
    "ice": ((0.03, 0.06, 0.2), (0.2, 0.5, 0.75), (0.93, 0.98, 1.0)),
    "bone": ((0.1, 0.09, 0.08), (0.5, 0.46, 0.4), (0.95, 0.93, 0.86)),
    "orchid": ((0.12, 0.03, 0.2), (0.65, 0.2, 0.6), (0.98, 0.85, 0.9)),
}
SCALES = {"fine": 4.0, "middle": 5.5, "coarse": 8.0}


def mosaic(rng: np.random.Generator, scale: float) -> Field:
    """Voronoi tiles of one level each, with dark joints."""
    near, second, index = _neighbours(rng, scale)
    levels = rng.uniform(0.25, 1.0, index.max() + 1)
    return np.asarray(levels[index] * np.clip((second - near) / 1.5, 0, 1), dtype=np.float32)


def bubbles(rng: np.random.Generator, scale: float) -> Field:
    """Voronoi cells that are bright at their rims."""
    near, second, _ = _neighbours(rng, scale)
    return np.asarray(np.exp(-(second - near) / (0.35 * scale)) * 0.8 + 0.2 * near / near.max(), dtype=np.float32)


def spots(rng: np.random.Generator, scale: float) -> Field:
    """Islands where smoothed noise is high."""
    return _reaction(rng, scale, threshold=0.7)


def maze(rng: np.random.Generator, scale: float) -> Field:
    """Winding stripes of one width: noise of one wavelength, hardened."""
    return _reaction(rng, scale, threshold=0.0)


KINDS: dict[str, Callable[[np.random.Generator, float], Field]] = {
    "mosaic": mosaic,
    "bubbles": bubbles,
    "spots": spots,
    "maze": maze,
}
LANGUAGE = Language((tuple(SCALES), tuple(PALETTES), tuple(KINDS)))


def draw(rng: np.random.Generator, words: tuple[str, ...]) -> Field:
    """A picture (32, 32, 3) in [0, 1] such as "coarse ice maze"."""
    scale, palette, kind = words
    field = KINDS[kind](rng, SCALES[scale] * rng.uniform(0.9, 1.1))
    shade = gaussian_filter(rng.standard_normal((SIDE, SIDE)), 7, mode="wrap")
    field = np.clip(field + 0.15 * shade / shade.std(), 0, 1)
    return coloured(field, PALETTES[palette], rng)


def coloured(field: Field, palette: tuple[tuple[float, float, float], ...], rng: np.random.Generator) -> Field:
    """Levels in [0, 1] as colours between those of a palette, which vary a little from picture to picture."""
    stops = np.clip(np.asarray(palette) + rng.uniform(-0.06, 0.06, (len(palette), 3)), 0, 1)
    places = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(field, places, stops[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def _neighbours(rng: np.random.Generator, scale: float) -> tuple[Field, Field, NDArray[np.intp]]:
    """For each pixel how far the nearest and the second nearest of scattered points are, and which is nearest."""
    count = max(int((SIDE + 2 * scale) ** 2 / (1.6 * scale) ** 2), 4)
    points = rng.uniform(-scale, SIDE + scale, (count, 2))
    distances = np.sqrt(np.square(_grid()[:, :, None] - points).sum(-1))
    order = np.argpartition(distances, 1, axis=-1)[..., :2]
    two = np.sort(np.take_along_axis(distances, order, -1), -1)
    return two[..., 0].astype(np.float32), two[..., 1].astype(np.float32), distances.argmin(-1)


@functools.cache
def _grid() -> Field:
    return np.stack(np.meshgrid(*[np.arange(SIDE, dtype=np.float32)] * 2, indexing="ij"), axis=-1)


def _reaction(rng: np.random.Generator, scale: float, threshold: float) -> Field:
    noise = rng.standard_normal((SIDE, SIDE))
    band = gaussian_filter(noise, 0.22 * scale, mode="wrap") - gaussian_filter(noise, 0.35 * scale, mode="wrap")
    return np.asarray(1 / (1 + np.exp(-4 * (band / band.std() - threshold))), dtype=np.float32)
