"""Rank correlation: whether one number says which of two steps changes more, whatever its scale."""

from __future__ import annotations

import math

import numpy as np

from accel.caching.calibration.table import Array


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's; not a number where one of them does not vary."""
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return math.nan
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Array) -> Array:
    """Equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])
