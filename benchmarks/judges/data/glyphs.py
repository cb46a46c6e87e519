"""Letters and digits in many typefaces, turned, slanted and coloured, over a shaded ground with smaller letters."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.judges.language import Language

LANGUAGE = Language((tuple("ABCEGHKMPRSTXZ25"),))
SIDE = 32
FACES = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-BoldOblique DejaVuSansMono DejaVuSerif DejaVuSerif-Bold "
    "DejaVuSerif-BoldItalic DejaVuSerif-Italic STIXGeneral STIXGeneralBol STIXGeneralItalic cmb10 cmr10 cmss10 cmtt10"
)


def draw(rng: np.random.Generator, words: tuple[str, ...]) -> NDArray[np.float32]:
    """A picture (32, 32, 3) in [0, 1] of the character `words[0]`."""
    picture = ground(rng, SIDE)
    if rng.uniform() < 0.7:
        small = str(rng.choice(list(LANGUAGE.slots[0])))
        stamp(picture, rng, small, size=float(rng.uniform(7, 10)), spread=12.0, strength=0.5)
    return stamp(picture, rng, words[0], size=float(rng.uniform(22, 27)), spread=2.0)


def ground(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """A plane of colour that shades from one side to the other."""
    first, second = rng.uniform(0, 1, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    blend = np.clip(0.5 + np.cos(angle) * x + np.sin(angle) * y, 0, 1)[..., None]
    return np.asarray(first * (1 - blend) + (0.7 * first + 0.3 * second) * blend, dtype=np.float32)


def stamp(
    picture: NDArray[np.float32],
    rng: np.random.Generator,
    character: str,
    size: float,
    spread: float,
    strength: float = 1.0,
) -> NDArray[np.float32]:
    """Sets a character of a random face and colour near the middle, in place; returns the picture."""
    side = picture.shape[0]
    mask = Image.new("L", (side, side))
    middle = tuple(side / 2 + rng.uniform(-spread, spread, 2))
    ImageDraw.Draw(mask).text(middle, character, fill=255, font=face(int(rng.integers(15)), int(size)), anchor="mm")
    alpha = np.asarray(mask.rotate(float(rng.uniform(-10, 10)), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    colour = contrasting(rng, picture.mean((0, 1)))
    picture += strength * alpha[..., None] * (colour - picture)
    return picture


def contrasting(rng: np.random.Generator, ground: Any) -> NDArray[np.float32]:
    """A colour that can be told from the ground."""
    while True:
        colour = rng.uniform(0, 1, 3)
        if np.abs(colour - ground).mean() > 0.3:
            return np.asarray(colour, dtype=np.float32)


@functools.cache
def face(index: int, size: int) -> ImageFont.FreeTypeFont:
    """A font of those that matplotlib ships."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / f"{FACES.split()[index]}.ttf"), size)
