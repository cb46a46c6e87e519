"""Windows along one axis, and which places of it are taken from which."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple


class Segment(NamedTuple):
    """A window along one axis: where it starts, and which places of the canvas are taken from it."""

    start: int
    first: int
    last: int  # exclusive; beyond the length where the axis is joined to itself


def segments(length: int, window: int, offset: int, circular: bool = False) -> list[Segment]:
    """Windows whose segments cover an axis once. Any length; a window that is as long covers it alone."""
    if length <= window:
        return [Segment(0, 0, length)]
    if circular:
        edges = [*range(offset, offset + length, window), offset + length]
        return [Segment(low, low, high) for low, high in pairwise(edges)]
    edges = sorted({0, *range(offset, length, window), length})
    return [Segment(min(low, length - window), low, high) for low, high in pairwise(edges)]
