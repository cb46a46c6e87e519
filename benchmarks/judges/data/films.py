"""Videos of real pictures: a camera pans over them, zooms in or out, or turns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.judges.data.photos import PICTURES, cut, photograph
from benchmarks.judges.language import Language

SIDE, FRAMES = 32, 13
MOVES: dict[str, tuple[float, float, float]] = {
    "left": (-1.0, 0.0, 1.0),
    "right": (1.0, 0.0, 1.0),
    "up": (0.0, -1.0, 1.0),
    "down": (0.0, 1.0, 1.0),
    "nearer": (0.0, 0.0, 0.5),
    "farther": (0.0, 0.0, 2.0),
}
"""How far the camera goes, in widths of the shorter side by 0.25, and by what it changes what it shows."""
SPEEDS = {"slowly": 0.5, "quickly": 1.0}
LANGUAGE = Language((tuple(PICTURES), tuple(MOVES), tuple(SPEEDS)))


def draw(rng: np.random.Generator, words: tuple[str, ...]) -> NDArray[np.float32]:
    """A clip (13, 32, 32, 3) in [0, 1] such as "cat left slowly"."""
    picture, move, speed = words
    source = photograph(picture)
    dx, dy, zoom = MOVES[move]
    short = min(source.size)
    travel = 0.25 * SPEEDS[speed] * rng.uniform(0.85, 1.15) * short * np.asarray([dx, dy])
    change = zoom ** (SPEEDS[speed] * rng.uniform(0.85, 1.15))
    first = short * rng.uniform(0.3, 0.42) / min(change, 1.0) ** 0.5 / max(change, 1.0) ** 0.5
    sides = first * change ** np.linspace(0, 1, FRAMES)
    reach = sides.max() / 2 + np.abs(travel) / 2
    middle = rng.uniform(reach, np.asarray(source.size) - reach)
    centres = middle + np.linspace(-0.5, 0.5, FRAMES)[:, None] * travel
    corners = centres - sides[:, None] / 2
    frames = [cut(source, x, y, side, SIDE) for (x, y), side in zip(corners, sides, strict=True)]
    return np.clip(np.stack(frames), 0, 1)
