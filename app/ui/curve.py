"""The quality of every frame as a curve: where in the video the two clips differ most."""

from __future__ import annotations

import math
from collections.abc import Sequence

_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 132.0, 40.0, 12.0, 14.0, 22.0
_CAP = 100.0  # identical frames have no finite PSNR


def curve_svg(psnr: Sequence[float], worst: int, width: float = 900.0) -> str:
    """PSNR (dB) over frames, with a mark at frame `worst`. An empty text for fewer than two frames.

    The picture has a `line.cursor` and the attributes data-left and data-right, the places of the first and the last
    frame as shares of its width, with which a viewer moves the cursor and finds the frame under a pointer.
    """
    if len(psnr) < 2:
        return ""
    values = [min(_CAP, value) for value in psnr]
    finite = [value for value in values if value < _CAP] or [_CAP]
    low, high = math.floor(min(finite)) - 1.0, math.ceil(max(finite)) + 1.0
    step = (width - _LEFT - _RIGHT) / (len(values) - 1)

    def place(frame: int) -> tuple[float, float]:
        share = (min(values[frame], high) - low) / (high - low)
        return _LEFT + step * frame, _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    places = [place(frame) for frame in range(len(values))]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    floor = f"{places[-1][0]:.1f},{_HEIGHT - _BOTTOM:.1f} {places[0][0]:.1f},{_HEIGHT - _BOTTOM:.1f}"
    x, y = places[worst]
    ends = "".join(
        f'<text x="{_LEFT - 8:g}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'
        f'<line class="grid" x1="{_LEFT:g}" x2="{width - _RIGHT:g}" y1="{at:.1f}" y2="{at:.1f}"/>'
        for value, at in ((high, _TOP), (low, _HEIGHT - _BOTTOM))
    )
    anchor = "start" if worst < len(values) / 2 else "end"
    return (
        f'<svg class="curve" viewBox="0 0 {width:g} {_HEIGHT:g}" role="img" data-left="{_LEFT / width:.4f}" '
        f'data-right="{1 - _RIGHT / width:.4f}" aria-label="PSNR of each frame; the worst is {worst + 1}">{ends}'
        f'<polygon class="area" points="{line} {floor}"/><polyline class="values" points="{line}"/>'
        f'<circle class="worst" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
        f'<text class="strong" x="{x + (9 if anchor == "start" else -9):.1f}" y="{y + 13:.1f}" text-anchor="{anchor}">'
        f"worst: frame {worst + 1}, {values[worst]:.1f} dB</text>"
        f'<line class="cursor" x1="{_LEFT:g}" x2="{_LEFT:g}" y1="{_TOP:g}" y2="{_HEIGHT - _BOTTOM:g}"/>'
        f'<text x="{_LEFT:g}" y="{_HEIGHT - 6:g}">PSNR of each frame, dB</text></svg>'
    )
