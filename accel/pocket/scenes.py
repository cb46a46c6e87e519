"""Captioned synthetic clips: a coloured shape that moves, over a detailed grey scene.

A caption names four attributes of the main object and its background. Everything else (position, size, speed,
texture, grey distractors in front of and behind the object) is random and uncaptioned, so that a model must invent
detail and a cheaper sampler visibly invents different detail. All coordinates are relative to the shorter side of
the frame, so one scene renders at any size and any number of frames.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.92, 0.10, 0.10),
    "yellow": (0.93, 0.86, 0.08),
    "green": (0.10, 0.78, 0.14),
    "cyan": (0.08, 0.82, 0.88),
    "blue": (0.12, 0.20, 0.95),
    "magenta": (0.90, 0.12, 0.85),
}
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS: dict[str, tuple[int, int]] = {
    "moves left": (-1, 0),
    "moves right": (1, 0),
    "moves up": (0, -1),
    "moves down": (0, 1),
    "stays still": (0, 0),
}
BACKGROUNDS = ("dark", "light", "striped", "dotted")
_PATTERN = re.compile(r"a (\w+) (\w+) (moves \w+|stays still) on a (\w+) background")


@dataclass(frozen=True)
class Caption:
    """The four captioned attributes of a clip."""

    colour: str
    shape: str
    motion: str
    background: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape} {self.motion} on a {self.background} background"

    @classmethod
    def parse(cls, text: str) -> Caption:
        """Reads a caption back; ValueError when the text is not in the grammar."""
        match = _PATTERN.fullmatch(" ".join(text.lower().split()).rstrip("."))
        known: tuple[Collection[str], ...] = (COLOURS, SHAPES, MOTIONS, BACKGROUNDS)
        if match is None or any(word not in words for word, words in zip(match.groups(), known, strict=True)):
            raise ValueError(
                f"cannot read {text!r}: write 'a COLOUR SHAPE MOTION on a BACKGROUND background' with COLOUR in "
                f"{'/'.join(COLOURS)}, SHAPE in {'/'.join(SHAPES)}, MOTION in {'/'.join(MOTIONS)}, "
                f"BACKGROUND in {'/'.join(BACKGROUNDS)}"
            )
        return cls(*match.groups())


def captions() -> list[Caption]:
    """Every caption of the grammar, in a fixed order."""
    return [Caption(*words) for words in itertools.product(COLOURS, SHAPES, MOTIONS, BACKGROUNDS)]


def prompts(n: int, seed: int = 0) -> list[str]:
    """`n` captions of the grammar as text: a seeded random order, without repeats while they last."""
    if n < 0:
        raise ValueError(f"n must be 0 or more, got {n}")
    every = captions()
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(every)) for _ in range(n // len(every) + 1)])
    return [str(every[i]) for i in order[:n]]


@dataclass(frozen=True)
class Thing:
    """One opaque shape: `start` and `end` are its centre (x, y) as fractions of width and height."""

    shape: str
    rgb: tuple[float, float, float]
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """Everything that is needed to render a clip; `things` are drawn in order, later ones in front."""

    caption: Caption
    things: tuple[Thing, ...]
    noise: tuple[Array, ...]
    noise_contrast: float
    levels: tuple[float, float]
    angle: float
    period: float
    phase: tuple[float, float]
    blobs: Array


def sample_scene(rng: np.random.Generator, caption: Caption | None = None) -> Scene:
    """Draws a random scene that fits the caption (a random caption if none is given)."""
    if caption is None:
        every = captions()
        caption = every[int(rng.integers(len(every)))]
    behind = [_distractor(rng, front=False) for _ in range(int(rng.integers(1, 3)))]
    front = [_distractor(rng, front=True) for _ in range(int(rng.integers(0, 2)))]
    blob_count = int(rng.integers(5, 13))
    blobs = np.stack(
        [
            rng.uniform(0, 1, blob_count),
            rng.uniform(0, 1, blob_count),
            rng.uniform(0.025, 0.05, blob_count),
            rng.uniform(0.08, 0.22, blob_count) * rng.choice([-1, 1], blob_count),
        ],
        axis=1,
    ).astype(np.float32)
    patterned = caption.background in ("striped", "dotted")
    return Scene(
        caption=caption,
        things=(*behind, _main_thing(rng, caption), *front),
        noise=tuple(rng.standard_normal((n, n)).astype(np.float32) for n in (4, 7, 12)),
        noise_contrast=float(rng.uniform(0.02, 0.04) if patterned else rng.uniform(0.04, 0.08)),
        levels=_levels(rng, caption.background),
        angle=float(rng.uniform(0, np.pi)),
        period=float(rng.uniform(0.2, 0.3)),
        phase=(float(rng.uniform(0, 1)), float(rng.uniform(0, 1))),
        blobs=blobs,
    )


def render(scene: Scene, height: int = 64, width: int = 64, frames: int = 17) -> Array:
    """Draws the clip: (frames, height, width, 3) float32 in [0, 1], anti-aliased."""
    short = min(height, width)
    x, y = np.meshgrid(
        (np.arange(width, dtype=np.float32) + 0.5) / short,
        (np.arange(height, dtype=np.float32) + 0.5) / short,
    )
    background = _background(scene, x, y)
    video = np.broadcast_to(background[None, :, :, None], (frames, height, width, 3)).copy()
    time = np.linspace(0, 1, frames, dtype=np.float32)[:, None, None] if frames > 1 else np.float32(0.5)
    for thing in scene.things:
        centre_x = (thing.start[0] + (thing.end[0] - thing.start[0]) * time) * (width / short)
        centre_y = (thing.start[1] + (thing.end[1] - thing.start[1]) * time) * (height / short)
        distance = signed_distance(thing.shape, x - centre_x, y - centre_y, thing.radius)
        alpha = np.clip(0.5 - distance * short, 0, 1)
        alpha = np.broadcast_to(alpha, (frames, height, width))[..., None]
        video += alpha * (np.asarray(thing.rgb, dtype=np.float32) - video)
    return np.clip(video, 0, 1)


def signed_distance(shape: str, x: Array, y: Array, radius: float) -> Array:
    """Distance to the outline of a shape around the origin, negative inside; y points down."""
    if shape == "circle":
        return np.asarray(np.sqrt(x * x + y * y) - radius)
    if shape == "square":
        return np.asarray(np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius)
    if shape == "triangle":
        slope = 0.8944  # an isosceles triangle as wide as it is high: sides of slope 2
        return np.asarray(np.maximum(y - radius, slope * np.abs(x) - 0.4472 * (y + radius)))
    if shape == "cross":
        across = np.maximum(np.abs(x) - 1.05 * radius, np.abs(y) - 0.35 * radius)
        down = np.maximum(np.abs(y) - 1.05 * radius, np.abs(x) - 0.35 * radius)
        return np.asarray(np.minimum(across, down))
    raise ValueError(f"unknown shape {shape!r}: choose one of {', '.join(SHAPES)}")


def _main_thing(rng: np.random.Generator, caption: Caption) -> Thing:
    radius = float(rng.uniform(0.16, 0.22))
    low, high = radius + 0.03, 0.97 - radius
    along, across = rng.uniform(low, high, 2)
    travel = float(rng.uniform(0.28, min(0.5, high - low)))
    dx, dy = MOTIONS[caption.motion]
    start, end = [float(along), float(across)], [float(along), float(across)]
    for axis, sign in enumerate((dx, dy)):
        if sign:
            first = float(rng.uniform(low, high - travel))
            start[axis], end[axis] = (first, first + travel) if sign > 0 else (first + travel, first)
    base = np.asarray(COLOURS[caption.colour])
    rgb = np.clip(base * rng.uniform(0.82, 1.05) + rng.uniform(-0.04, 0.04, 3), 0, 1)
    colour = (float(rgb[0]), float(rgb[1]), float(rgb[2]))
    return Thing(caption.shape, colour, radius, (start[0], start[1]), (end[0], end[1]))


def _distractor(rng: np.random.Generator, front: bool) -> Thing:
    """A grey shape; one in front of the object is small and always drifts, so that it hides nothing for long."""
    radius = float(rng.uniform(0.06, 0.09) if front else rng.uniform(0.08, 0.16))
    start = rng.uniform(0.08, 0.92, 2)
    end = start
    if front or rng.uniform() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        step = rng.uniform(0.3, 0.6) if front else rng.uniform(0.15, 0.4)
        end = start + step * np.asarray([np.cos(angle), np.sin(angle)])
        # Bounce back into the frame instead of leaving it.
        end = np.where((end < 0) | (end > 1), 2 * start - end, end)
    grey = float(rng.uniform(0.1, 0.9))
    shape = str(rng.choice(["circle", "square", "triangle"]))
    return Thing(shape, (grey, grey, grey), radius, (float(start[0]), float(start[1])), (float(end[0]), float(end[1])))


def _levels(rng: np.random.Generator, background: str) -> tuple[float, float]:
    """The grey levels of the ground and of the stripes or dots on it."""
    if background == "dark":
        return float(rng.uniform(0.10, 0.22)), 0.0
    if background == "light":
        return float(rng.uniform(0.74, 0.88)), 0.0
    ground, contrast = float(rng.uniform(0.2, 0.42)), float(rng.uniform(0.3, 0.45))
    return (ground, ground + contrast) if rng.uniform() < 0.5 else (ground + contrast, ground)


def _background(scene: Scene, x: Array, y: Array) -> Array:
    """The static grey ground (height, width): its pattern, smooth noise at three scales, and soft blobs."""
    ground, other = scene.levels
    grey = np.full_like(x, ground)
    c, s = np.cos(scene.angle), np.sin(scene.angle)
    u = (c * x + s * y) / scene.period + scene.phase[0]
    v = (c * y - s * x) / scene.period + scene.phase[1]
    if scene.caption.background == "striped":
        grey += (other - ground) * _soft_step(np.sin(2 * np.pi * u), 0.45)
    elif scene.caption.background == "dotted":
        radius = np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5)
        grey += (other - ground) * _soft_step(0.33 - radius, 0.08)
    for grid in scene.noise:
        grey += scene.noise_contrast * _upsample(grid, *x.shape)
    short = min(x.shape)
    for bx, by, radius, height in scene.blobs:
        square = (x - bx * x.shape[1] / short) ** 2 + (y - by * x.shape[0] / short) ** 2
        grey += height * np.exp(-square / (radius * radius))
    return grey.astype(np.float32)


def _soft_step(value: Array, softness: float) -> Array:
    return np.asarray(np.clip(0.5 + 0.5 * value / softness, 0, 1))


def _upsample(grid: Array, height: int, width: int) -> Array:
    return np.asarray(_weights(height, grid.shape[0]) @ grid @ _weights(width, grid.shape[1]).T)


def _weights(size: int, cells: int) -> Array:
    """Interpolation matrix (size, cells) with smooth (cosine) weights between neighbouring cells."""
    position = (np.arange(size) + 0.5) / size * (cells - 1)
    index = np.minimum(position.astype(int), cells - 2)
    blend = 0.5 - 0.5 * np.cos(np.pi * (position - index))
    matrix = np.zeros((size, cells), dtype=np.float32)
    rows = np.arange(size)
    matrix[rows, index] = 1 - blend
    matrix[rows, index + 1] = blend
    return matrix
