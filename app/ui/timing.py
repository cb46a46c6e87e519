"""Where the seconds went: one bar for each side, of text encoding, denoising and decoding."""

from __future__ import annotations

from html import escape

from accel.app.pair import Pair, Side

PHASES = {"before": "text encoding and set-up", "denoise": "denoising", "after": "decoding"}


def times_html(pair: Pair, name: str) -> str:
    """Two bars to one scale."""
    longest = max(pair.baseline.seconds["total"], pair.accelerated.seconds["total"], 1e-9)
    bars = _bar("unaccelerated", pair.baseline, longest) + _bar(name, pair.accelerated, longest)
    legend = "".join(f'<span><i class="{phase}"></i>{words}</span>' for phase, words in PHASES.items())
    return f'<section><h3>Time</h3><div class="times">{bars}</div><div class="legend">{legend}</div></section>'


def _bar(name: str, side: Side, longest: float) -> str:
    pieces = "".join(
        f'<i class="{phase}" style="width:{100 * side.seconds.get(phase, 0.0) / longest:.2f}%" '
        f'title="{words}: {side.seconds.get(phase, 0.0):.2f} s"></i>'
        for phase, words in PHASES.items()
    )
    return (
        f'<span class="name">{escape(name)}</span><div class="bar">{pieces}</div><b>{side.seconds["total"]:.2f} s</b>'
    )
