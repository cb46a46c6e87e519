"""Weights with which values at some noise levels make a polynomial's values at others."""

from __future__ import annotations

import math
from collections.abc import Sequence


def lagrange(times: Sequence[float], now: float) -> list[float]:
    """The weights of the values at distinct `times` in the value at `now` of the polynomial through them."""
    return [math.prod((now - other) / (known - other) for other in times if other != known) for known in times]


def interpolation_weights(times: Sequence[float], steps: Sequence[tuple[float, float]]) -> list[float]:
    """For values at `times`, the weights with which Lagrange's polynomial through them gives the weighted sum over
    `steps`, pairs of a time and a weight.
    """
    parts = [[weight * share for share in lagrange(times, time)] for time, weight in steps]
    return [sum(shares) for shares in zip(*parts, strict=True)]
