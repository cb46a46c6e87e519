"""Text is attended densely, so a density over all tokens leaves another one for the video tokens."""

from __future__ import annotations

from accel.attention.layout import TokenLayout


def video_density(layout: TokenLayout, density: float) -> float:
    """The density among video tokens that makes this one of all tokens, text being seen by all and seeing all."""
    return (density * layout.tokens**2 - layout.text * (layout.video + layout.tokens)) / layout.video**2
