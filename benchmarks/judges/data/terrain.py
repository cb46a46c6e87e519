"""Real land as a relief: an elevation model that ships with matplotlib, lit from one side and coloured by height."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from benchmarks.judges.language import Language

SIDE = 32
SUNS = {"north": (1.0, 0.0), "east": (0.0, -1.0), "south": (-1.0, 0.0), "west": (0.0, 1.0)}
"""Where the light comes from: how it falls along rows and columns."""
MAPS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "atlas": ((0.25, 0.5, 0.3), (0.85, 0.8, 0.55), (0.6, 0.4, 0.3)),
    "desert": ((0.45, 0.25, 0.15), (0.85, 0.6, 0.35), (0.98, 0.9, 0.75)),
    "winter": ((0.2, 0.25, 0.35), (0.6, 0.68, 0.75), (1.0, 1.0, 1.0)),
    "heat": ((0.1, 0.1, 0.5), (0.2, 0.7, 0.6), (0.95, 0.85, 0.2)),
}
HEIGHTS = {"low": 0.12, "middle": 0.2, "high": 0.4}
"""How much of the shorter side the view from there shows."""
LANGUAGE = Language((tuple(HEIGHTS), tuple(MAPS), tuple(SUNS)))


def draw(rng: np.random.Generator, words: tuple[str, ...]) -> NDArray[np.float32]:
    """A picture (32, 32, 3) in [0, 1] such as "low desert east"; the land is turned and mirrored at random."""
    view, colours, sun = words
    land = np.rot90(elevation(), int(rng.integers(4)))
    land = land[:, ::-1] if rng.uniform() < 0.5 else land
    side = int(HEIGHTS[view] * rng.uniform(0.9, 1.1) * min(land.shape))
    top, left = (int(rng.integers(size - side + 1)) for size in land.shape)
    piece = zoom(land[top : top + side, left : left + side], SIDE / side, order=1, grid_mode=True, mode="nearest")
    return shaded(piece, HEIGHTS[view], MAPS[colours], SUNS[sun])


def shaded(
    land: NDArray[np.float32], extent: float, colours: tuple[tuple[float, float, float], ...], sun: tuple[float, float]
) -> NDArray[np.float32]:
    """Colours by height within the piece, darker where the ground falls away from the light."""
    height = (land - land.min()) / max(float(np.ptp(land)), 1e-6)
    slopes = np.gradient(land) / np.float32(extent * 80)  # a pixel is the wider the more is shown
    light = 1 / (1 + np.exp(-(sun[0] * slopes[0] + sun[1] * slopes[1])))
    stops = np.asarray(colours)
    tint = np.stack([np.interp(height, np.linspace(0, 1, len(stops)), stops[:, c]) for c in range(3)], axis=-1)
    return np.asarray(np.clip(tint * (0.3 + 1.1 * light[..., None]), 0, 1), dtype=np.float32)


@functools.cache
def elevation() -> NDArray[np.float32]:
    """Metres, of the country around a fault in Tennessee: 344 by 403 places."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data/jacksboro_fault_dem.npz"
    return np.asarray(np.load(path)["elevation"], dtype=np.float32)
