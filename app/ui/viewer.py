"""The viewer: two clips frame by frame, side by side, wiped, flipped or subtracted, under one transport."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gradio as gr

from accel.app.pair import Pair, Side
from accel.app.ui.assets import read
from accel.app.ui.curve import curve_svg
from accel.app.ui.sheets import FrameSheets, sheets_of

UNACCELERATED = "unaccelerated"


def viewer(empty: str = "", value: dict[str, Any] | None = None, **arguments: Any) -> gr.HTML:
    """A component whose value is what `pair_value` or `blind_value` gives, or None for an empty stage.

    The browser draws both clips from sheets of frames onto canvases, so they cannot run apart, every frame can be
    shown at once, and the difference is exact. Of sound the sheets hold spectrograms, the third that of the difference,
    and the sounds play together while one of them is heard. `empty` is what stands on the stage at first.
    """
    return gr.HTML(
        value=value,
        html_template=read("viewer.html"),
        js_on_load=read("viewer.js"),
        apply_default_css=False,
        empty=empty,
        **arguments,
    )


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
    return _value(pair, sides, ("A", "B")) | {"worst": None, "curve": "", "downloads": []}, swapped


def name_of(pair: Pair) -> str:
    """What the accelerated side is called."""
    return pair.label or pair.settings.recipe.label


def url(path: Path) -> str:
    """Where the server gives this file; relative, so that it also works behind a proxy with a path of its own."""
    return f"gradio_api/file={path}"


def _value(pair: Pair, sides: tuple[Side, Side], names: tuple[str, str]) -> dict[str, Any]:
    frames, height, width = pair.baseline.frames.shape[:3]
    pictured = [*sides, *([pair.difference] if pair.difference and not pair.psnr_per_frame else [])]
    sheets = tuple(map(sheets_of, pictured))
    heard = [*sides, *([pair.difference] if pair.difference else [])]
    return {
        "names": list(names),
        "frames": frames,
        "width": width,
        "height": height,
        "fps": pair.fps,
        "columns": sheets[0].columns,
        "rows": sheets[0].rows,
        "exact": sheets[0].exact,
        "sheets": [_urls(each) for each in sheets],
        "sounds": [url(path) for side in heard for path in side.heard],
    }


def _curves(pair: Pair) -> str:
    """For wide and for narrow pages; the style sheet shows one of them."""
    return "".join(
        f'<div class="{name}">{curve_svg(pair.psnr_per_frame, pair.worst_frame, width)}</div>'
        for name, width in (("wide", 900.0), ("narrow", 350.0))
    )


def _urls(sheets: FrameSheets) -> list[str]:
    return [url(path) for path in sheets.files]
