"""What the viewer shows of a pair: both clips, their sounds, the curve of quality."""

from __future__ import annotations

import random
from typing import Any

from accel.app.gradio_pair.component import page_value, url
from accel.app.pair import Pair, Side
from accel.app.ui.curve import curve_svg
from accel.app.ui.sheets import sheets_of

UNACCELERATED = "unaccelerated"


def pair_value(pair: Pair) -> dict[str, Any]:
    """The baseline on the left, the accelerated clip on the right, the curve of quality below."""
    return _value(pair, (pair.baseline, pair.accelerated), (UNACCELERATED, name_of(pair))) | {
        "worst": pair.worst_frame,
        "curve": _curves(pair),
        "downloads": [
            {"name": UNACCELERATED, "url": url(pair.baseline.path)},
            {"name": name_of(pair), "url": url(pair.accelerated.path)},
        ],
    }


def blind_value(pair: Pair, order: random.Random) -> tuple[dict[str, Any], bool]:
    """The two clips as A and B in a random order, with nothing that tells them apart; and whether they are swapped."""
    swapped = order.random() < 0.5
    sides = (pair.accelerated, pair.baseline) if swapped else (pair.baseline, pair.accelerated)
    return _value(pair, sides, ("A", "B")), swapped


def name_of(pair: Pair) -> str:
    """What the accelerated side is called."""
    return pair.label or pair.settings.recipe.label


def _value(pair: Pair, sides: tuple[Side, Side], names: tuple[str, str]) -> dict[str, Any]:
    pictured = [*sides, *([pair.difference] if pair.difference and not pair.psnr_per_frame else [])]
    heard = [*sides, *([pair.difference] if pair.difference else [])]
    drawn = page_value([sheets_of(side) for side in pictured], pair.baseline.frames.shape, names, pair.fps)
    return drawn | {"sounds": [url(path) for side in heard for path in side.heard]}


def _curves(pair: Pair) -> str:
    """For wide and for narrow pages; the style sheet shows one of them."""
    return "".join(
        f'<div class="{name}">{curve_svg(pair.psnr_per_frame, pair.worst_frame, width)}</div>'
        for name, width in (("wide", 900.0), ("narrow", 350.0))
    )
