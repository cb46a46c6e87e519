"""A clip as a few large pictures with many frames each: what the viewer draws from, exact and never out of step."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.measure.media import Pixels

_MOST = 4096  # pixels along one side of a sheet, which every browser and graphics card can draw
_EXACT = 24_000_000  # pixels of a clip; larger ones would take seconds and tens of megabytes as PNG
_QUALITY = 92  # of WebP, for those


@dataclass(frozen=True)
class FrameSheets:
    """The files in order, and how many frames lie next to and below each other in each, filled row by row."""

    files: tuple[Path, ...]
    columns: int
    rows: int
    exact: bool


def tiling(frames: int, height: int, width: int) -> tuple[int, int]:
    """(columns, rows) of a sheet: about square, and as large as a sheet may be."""
    columns = max(1, min(math.ceil(math.sqrt(frames)), _MOST // width))
    return columns, max(1, min(math.ceil(frames / columns), _MOST // height))


def write_sheets(frames: Pixels, folder: Path) -> FrameSheets:
    """Writes the sheets of a clip (frames, height, width, 3) of uint8 into this folder."""
    from PIL import Image

    count, height, width = frames.shape[:3]
    columns, rows = tiling(count, height, width)
    exact = count * height * width <= _EXACT
    files = []
    for sheet in _tiled(frames, columns, rows):
        # The name cannot be guessed: the server gives a file of this folder to whoever knows it.
        path = folder / f"sheet-{uuid.uuid4().hex}.{'png' if exact else 'webp'}"
        picture = Image.fromarray(sheet)
        if exact:
            picture.save(path, compress_level=2)
        else:
            picture.save(path, quality=_QUALITY, method=2)
        files.append(path)
    return FrameSheets(tuple(files), columns, rows, exact)


def _tiled(frames: Pixels, columns: int, rows: int) -> Iterator[Pixels]:
    _, height, width, _ = frames.shape
    for start in range(0, len(frames), columns * rows):
        some = frames[start : start + columns * rows]
        used = math.ceil(len(some) / columns)
        grid = np.zeros((used * columns, height, width, 3), np.uint8)
        grid[: len(some)] = some
        tiles = grid.reshape(used, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
        yield np.ascontiguousarray(tiles.reshape(used * height, columns * width, 3))
