"""Reads colour, shape, motion and background off a clip or a picture by image analysis, to compare with its caption.

Nothing here is learned. Everything around the captioned object is grey, so a pixel's chroma (largest minus smallest
colour channel) is proportional to how much of it the object covers; the rest follows from that coverage. Written for
the scenes of `accel.pocket.scenes`; it says nothing useful about other videos.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.measure.metrics import to_frames
from accel.pocket.scenes import COLOURS, MOTIONS, SHAPES, Caption, signed_distance

Array = NDArray[np.floating[Any]]

# Lengths are fractions of the frame's shorter side, areas of its square. The smallest object covers 0.06.
_LEAST_CHROMA = 0.2
_LEAST_AREA = 0.02
_LEAST_COLOUR_SHARE = 0.7
_LEAST_OVERLAP = 0.65
_GRID = 64
_MOST_FRAMES = 17
# Objects that move cross at least 0.28 of the frame; one that stands still seems to shift by up to 0.06 when a grey
# shape passes in front of it.
_LEAST_TRAVEL = 0.14
_LEAST_CONTRAST = 0.09
_MOST_KURTOSIS = 2.5


@dataclass(frozen=True)
class Verification:
    """What was read off a clip beside what its caption says.

    `attributes` maps colour, shape, motion (of several frames) and background to the caption's words, or to None where
    the clip shows nothing that deserves one of them; `expected` holds the caption's own, `matches` which agree, and
    `correct` says whether all do.
    """

    attributes: dict[str, str | None]
    expected: dict[str, str]
    matches: dict[str, bool]
    correct: bool

    def __str__(self) -> str:
        words = (
            f"{name} {found}" if self.matches[name] else f"{name} {found or 'unclear'} instead of {self.expected[name]}"
            for name, found in self.attributes.items()
        )
        return f"{'correct' if self.correct else 'wrong'}: {', '.join(words)}"


def verify(frames: Any, prompt: str) -> Verification:
    """Whether a clip shows what its caption says. Of a single picture, a clip of one frame, the motion is not judged.

    Args:
        frames: one clip, as an array or tensor (frames, height, width, 3) of uint8 or of floats in [0, 1], a list of
            PIL images, or a pipeline output; or one picture, as a clip of one frame or without the first dimension.
        prompt: a caption of the grammar in `accel.pocket.scenes`.

    Raises ValueError for a prompt outside the grammar and for frames that cannot be read. Takes about 20 ms for 17
    frames of 64x64.
    """
    caption = Caption.parse(prompt)
    expected = {
        "colour": caption.colour,
        "shape": caption.shape,
        "motion": caption.motion,
        "background": caption.background,
    }
    clip = to_frames(frames)
    attributes = read(clip)
    if len(clip) == 1:
        del attributes["motion"], expected["motion"]
    matches = {name: attributes[name] == word for name, word in expected.items()}
    return Verification(attributes, expected, matches, all(matches.values()))


def read(frames: Any) -> dict[str, str | None]:
    """The four attributes of a clip, None where one cannot be told. Takes what :func:`verify` takes."""
    video = _to_grid(to_frames(frames))
    chroma = video.max(-1) - video.min(-1)
    colour, coverage = _find_object(video, chroma)
    found: dict[str, str | None] = {"colour": colour, "shape": None, "motion": None}
    if coverage is not None:
        found |= {"shape": _shape(coverage), "motion": _motion(coverage)}
    return found | {"background": _background(video, chroma)}


def _find_object(video: Array, chroma: Array) -> tuple[str | None, Array | None]:
    """Colour of the main object, and how much of each pixel it covers: (frames, height, width) in [0, 1].

    Both are None without a coloured object; the colour alone is None where no hue prevails.
    """
    coloured = chroma > _LEAST_CHROMA
    if coloured.sum() < _LEAST_AREA * _GRID * _GRID * len(video):
        return None, None
    nearest = _nearest_hue(video)
    masses = np.array([chroma[coloured & (nearest == index)].sum() for index in range(len(COLOURS))])
    main = int(masses.argmax())
    own = coloured & (nearest == main)
    full = float(np.percentile(chroma[own], 75))
    coverage = np.where(nearest == main, np.clip(chroma / full, 0, 1), 0).astype(np.float32)
    share = masses[main] / masses.sum()
    return (list(COLOURS)[main] if share >= _LEAST_COLOUR_SHARE else None), coverage


def _nearest_hue(video: Array) -> NDArray[np.intp]:
    """Index of the named colour whose hue is nearest, per pixel; without meaning where a pixel is grey."""
    named = _chroma_plane(np.asarray(list(COLOURS.values()), np.float32))
    named /= np.linalg.norm(named, axis=-1, keepdims=True)
    return np.asarray((_chroma_plane(video) @ named.T).argmax(-1))


def _chroma_plane(rgb: Array) -> Array:
    """RGB to the plane across the grey axis, where the angle is the hue."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    return np.stack([red - (green + blue) / 2, np.sqrt(np.float32(0.75)) * (green - blue)], axis=-1)


def _shape(coverage: Array) -> str | None:
    """The shape whose template fits the frames best, with one size for the clip and the best place in each frame.

    Overlap is intersection over union for soft masks. The mean runs over the better 60 % of the frames, because a
    grey shape may pass in front of the object in the others.
    """
    chosen = np.linspace(0, len(coverage) - 1, min(len(coverage), _MOST_FRAMES)).astype(int)
    frames = _steepened(coverage[chosen])
    areas = frames.sum((1, 2))
    spectrum = np.fft.rfft2(frames)
    scores: dict[str, float] = dict.fromkeys(SHAPES, 0.0)
    for shape, template in _templates(float(np.percentile(areas, 75)), frames.shape[1:]):
        shared = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(template)), frames.shape[1:]).max((1, 2))
        overlap = shared / (areas + template.sum() - shared)
        scores[shape] = max(scores[shape], float(np.sort(overlap)[int(0.4 * len(overlap)) :].mean()))
    best = max(scores, key=lambda shape: scores[shape])
    return best if scores[best] >= _LEAST_OVERLAP else None


def _templates(area: float, size: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    """Masks of every shape in sizes around the one with this area (in pixels), centred in the frame."""
    y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) - n // 2 for n in size), indexing="ij")
    for shape in SHAPES:
        unit = float(np.clip(0.5 - signed_distance(shape, x, y, _GRID / 4), 0, 1).sum()) * (4 / _GRID) ** 2
        for scale in np.linspace(0.88, 1.2, 9):
            radius = float(scale * np.sqrt(area / unit))
            yield shape, _steepened(np.clip(0.5 - signed_distance(shape, x, y, radius), 0, 1))


def _steepened(coverage: Array) -> Array:
    """Cuts off the faint halo and fills the faint gaps that the autoencoder leaves around edges."""
    return np.asarray(np.clip((coverage - 0.35) / 0.3, 0, 1), np.float32)


def _motion(coverage: Array) -> str | None:
    """Direction of the line through the object's centres; None for slanted motion, or an object that comes and goes."""
    areas = coverage.sum((1, 2))
    present = areas > 0.3 * np.median(areas)
    if len(coverage) < 2 or present.mean() < 0.8:
        return None
    time = np.linspace(0, 1, len(coverage))[present]
    travel = np.zeros(2)
    for axis, size in enumerate((coverage.shape[2], coverage.shape[1])):
        centres = (coverage.sum(1 + axis) @ (np.arange(size) + 0.5))[present] / areas[present] / size
        travel[axis] = np.polyfit(time, centres, 1)[0]
    moving = np.abs(travel) > _LEAST_TRAVEL
    direction = tuple(int(sign) for sign in np.sign(travel) * moving)
    return next((name for name, known in MOTIONS.items() if known == direction), None)


def _background(video: Array, chroma: Array) -> str | None:
    """The pattern that can be seen, else dark or light by the mean level; None for grey that is none of the four.

    Stripes and dots are told by what they are nearby, not by a lattice over the whole frame, so that wavy stripes are
    striped as they are to the eye: a strong contrast between two levels (which flattens the distribution: a kurtosis
    of 1.5 to 2, where noise has 3), with edges that agree on a direction nearby (stripes) or point everywhere (dots).
    """
    weight = np.where(chroma < 0.08, 1.0, 0.0).astype(np.float32)
    seen = weight.sum(0)
    grey = (weight * video.mean(-1)).sum(0) / np.maximum(seen, 1)
    known = np.minimum(seen / max(len(video) / 4, 1), 1)
    if not known.any():
        return None
    level = _mean(grey, known)
    smooth = _local_mean(grey, known, 1.0)
    waves = smooth - _local_mean(grey, known, 8.0)
    variance = _mean(waves**2, known)
    if variance > _LEAST_CONTRAST**2 and _mean(waves**4, known) < _MOST_KURTOSIS * variance**2:
        agreement = _agreement(smooth, known)
        return "striped" if agreement > 0.6 else "dotted" if agreement < 0.5 else None
    return "dark" if level < 0.33 else "light" if level > 0.64 else None


def _agreement(grey: Array, known: Array) -> float:
    """How far the directions of edges agree with those nearby, in [0, 1]: the coherence of the structure tensor."""
    slopes: list[Array] = list(np.gradient(grey))
    down, right = slopes
    products: tuple[Array, ...] = (right * right, down * down, right * down)
    xx, yy, xy = (_local_mean(product, known, 4.0) for product in products)
    return float((known * np.hypot(xx - yy, 2 * xy)).sum() / max((known * (xx + yy)).sum(), 1e-9))


def _local_mean(values: Array, weights: Array, spread: float) -> Array:
    """Gaussian mean of the pixels around each (height, width); `spread` is its standard deviation in pixels."""
    rows, columns = (
        np.exp(-((np.arange(n)[:, None] - np.arange(n)) ** 2) / (2 * spread**2)).astype(np.float32)
        for n in values.shape
    )
    return np.asarray((rows @ (weights * values) @ columns) / np.maximum(rows @ weights @ columns, 1e-3))


def _mean(values: Array, weights: Array) -> float:
    return float((weights * values).sum() / weights.sum())


def _to_grid(video: Array) -> Array:
    """Larger frames averaged down to a shorter side of 64, which is all that the four attributes need."""
    height, width = video.shape[1:3]
    scale = min(1.0, _GRID / min(height, width))
    if scale == 1.0:
        return video
    rows = _averaging(height, round(height * scale))
    columns = _averaging(width, round(width * scale))
    return np.asarray(np.einsum("ih,fhwc,jw->fijc", rows, video, columns, optimize=True), np.float32)


def _averaging(size: int, cells: int) -> Array:
    """Matrix (cells, size) that averages neighbouring samples, with a share for those across a border."""
    edges = np.linspace(0, size, cells + 1)
    lower, upper = edges[:-1, None], edges[1:, None]
    start = np.arange(size)
    overlap = np.clip(np.minimum(upper, start + 1) - np.maximum(lower, start), 0, None)
    return np.asarray(overlap / overlap.sum(1, keepdims=True), np.float32)
