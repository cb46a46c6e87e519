"""How far a measured share or mean may be off, by chance alone: 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959964  # of the normal distribution, two-sided 95 %
RESAMPLES = 2000


class Interval(NamedTuple):
    low: float
    high: float


def of_share(hits: float, count: int) -> Interval:
    """Wilson's score interval (1927) of a probability that was seen `hits` times in `count`; (0, 1) of none at all.

    Unlike the share with its standard error it is right for few trials, and for shares of 0 and 1.
    """
    if not 0 <= hits <= count:
        raise ValueError(f"{hits} of {count} is no share.")
    if not count:
        return Interval(0.0, 1.0)
    share, spread = hits / count, Z * Z / count
    middle = (share + spread / 2.0) / (1.0 + spread)
    half = Z * math.sqrt(share * (1.0 - share) / count + spread / (4.0 * count)) / (1.0 + spread)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def of_mean(values: Sequence[float]) -> Interval:
    """Of a mean: Student's interval is for normal values, so the values are drawn anew (Efron's bootstrap, percentiles,
    the same draws each time). One value tells nothing of its spread: its interval is unbounded.
    """
    return of_ratio(values, [1.0] * len(values))


def of_ratio(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Of the ratio of two means whose values belong together in pairs, such as times on the same prompt."""
    above, below = np.asarray(values, float), np.asarray(others, float)
    if above.shape != below.shape or not above.size:
        raise ValueError(f"{len(values)} and {len(others)} values are no pairs.")
    if above.size == 1:
        return Interval(-math.inf, math.inf)
    drawn = np.random.default_rng(0).integers(above.size, size=(RESAMPLES, above.size))
    low, high = np.quantile(above[drawn].mean(1) / below[drawn].mean(1), [0.025, 0.975])
    return Interval(float(low), float(high))
