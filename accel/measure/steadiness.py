"""How steadily a clip moves, and how different clips are: measures without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.measure.metrics import Clip

BLOCK = 8  # pixels
REACH = 4  # pixels that a block may move from frame to frame, either way
SHORTER_SIDE = 128  # larger frames are averaged down for it
THUMB = (8, 64)  # frames and pixels that are kept of a clip to tell how different clips are


def warping_error(clip: NDArray[Any]) -> float:
    """What movement does not explain of the change from frame to frame: mean absolute difference in [0, 1].

    Each block of 8x8 pixels is looked for in the frame before, up to 4 pixels away, and what is left of the best match
    counts (Lai et al. 2018 warp with optical flow instead; matching blocks needs no model). Motion that a block can
    follow costs nothing, so unlike `flicker` it does not fall for a clip that stands still; boiling textures, jumps and
    shapes that change count. Frames are averaged down to a shorter side of at most 128. Costs 81 passes over the clip.
    Raises ValueError for a single frame, and for frames smaller than a block.
    """
    grey = _reduced(np.asarray(clip, np.float32).mean(-1))
    frames, height, width = grey.shape
    rows, columns = height // BLOCK, width // BLOCK
    if frames < 2 or not rows or not columns:
        raise ValueError(f"the warping error needs two frames of {BLOCK}x{BLOCK} pixels or more, got {clip.shape}.")
    now, padded = grey[1:], np.pad(grey[:-1], ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
    best = np.full((frames - 1, rows, columns), np.inf, np.float32)
    for down, right in product(range(2 * REACH + 1), repeat=2):
        error = np.abs(now - padded[:, down : down + height, right : right + width])
        blocks = error[:, : rows * BLOCK, : columns * BLOCK].reshape(-1, rows, BLOCK, columns, BLOCK)
        np.minimum(best, blocks.mean((2, 4)), out=best)
    return float(best.mean())


def diversity(clips: Sequence[NDArray[Any]]) -> float | None:
    """How different clips of one prompt are: the root mean square difference of two of them, averaged over all pairs,
    in [0, 1]. Says nothing of whether they are good. None for fewer than two.
    """
    pairs = [float(np.sqrt(np.mean(np.square(a - b, dtype=np.float64)))) for a, b in combinations(clips, 2)]
    return float(np.mean(pairs)) if pairs else None


def thumbnail(clip: Clip) -> Clip:
    """At most 8 frames, evenly chosen, with a shorter side of about 64 pixels: what `diversity` is measured on."""
    count, side = THUMB
    chosen = np.linspace(0, len(clip) - 1, min(count, len(clip))).round().astype(int)
    step = max(1, min(clip.shape[1:3]) // side)
    return np.asarray(_averaged(clip[chosen], step), np.float32)


def _reduced(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    return _averaged(grey, max(1, round(min(grey.shape[1:3]) / SHORTER_SIDE)))


def _averaged(frames: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Squares of pixels as one each; what is left over at the edges is cut off."""
    if step == 1:
        return frames
    rows, columns = frames.shape[1] // step, frames.shape[2] // step
    cut = frames[:, : rows * step, : columns * step]
    return np.asarray(cut.reshape(len(frames), rows, step, columns, step, *frames.shape[3:]).mean((2, 4)), np.float32)
