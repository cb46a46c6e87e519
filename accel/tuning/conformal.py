"""When a cheaper choice is good enough: how likely that is, and from where on it may be relied upon."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NEVER = 2.0  # a threshold that no probability reaches
FEWEST = 10  # prompts that say anything: with fewer, a lucky threshold is soon found among many


class Likelihood:
    """Logistic regression with a ridge: how likely a yes is, by a row of features. Of few examples it stays careful:
    the ridge keeps it near the share of yes among them.
    """

    def __init__(self, features: Array, hits: Sequence[bool], ridge: float = 1.0) -> None:
        self.middle, spread = features.mean(0), features.std(0)
        self.scale = np.where(spread > 1e-9, spread, 1.0)
        self.weights = _fitted(self._columns(features), np.asarray(hits, float), ridge)

    def __call__(self, features: Array) -> Array:
        """A probability for each row."""
        return np.asarray(1.0 / (1.0 + np.exp(-self._columns(features) @ self.weights)))

    def _columns(self, features: Array) -> Array:
        return np.column_stack([np.ones(len(features)), (features - self.middle) / self.scale])


def _fitted(columns: Array, hits: Array, ridge: float) -> Array:
    """Newton's method; the constant has no ridge, but half a yes and half a no beside the examples keep it finite."""
    penalty = ridge * np.eye(columns.shape[1])
    penalty[0, 0] = 1e-6
    neutral = np.zeros((1, columns.shape[1]))
    neutral[0, 0] = 1.0
    rows, truth = np.vstack([columns, neutral]), np.append(hits, 0.5)
    weights = np.zeros(columns.shape[1])
    for _ in range(25):
        likely = 1.0 / (1.0 + np.exp(-np.clip(rows @ weights, -30.0, 30.0)))
        slope = rows.T @ (likely - truth) + penalty @ weights
        curve = (rows * (likely * (1.0 - likely))[:, None]).T @ rows + penalty
        weights = weights - np.linalg.solve(curve, slope)
    return np.asarray(weights)


def taken(likely: Array, threshold: float) -> NDArray[np.intp]:
    """Of the choices (columns, the cheapest first) the first that is likely enough for each row; their number, which
    stands for the base, where none is.
    """
    enough = likely >= threshold
    return np.asarray(np.where(enough.any(1), enough.argmax(1), likely.shape[1]), np.intp)


def safe_threshold(likely: Array, suffices: NDArray[np.bool_], risk: float) -> float:
    """The lowest threshold at which, of the prompts that a choice is taken for, a share of at most `risk` is not served
    well, with one failure more than was seen and one prompt more, which may be the next one (as conformal selection
    counts, Jin and Candes 2022; for prompts like these). `NEVER` where these examples are too few, or the likelihoods
    tell too little, to say so of any.

    likely, suffices: (prompts, choices), of prompts that the likelihoods were not fitted on.
    """
    best, every = NEVER, sorted(set(likely.flatten().tolist()), reverse=True)
    for threshold in every:
        sent = [(row, one) for row, one in enumerate(taken(likely, threshold)) if one < likely.shape[1]]
        wrong = sum(not suffices[row, one] for row, one in sent)
        if len(sent) >= FEWEST and (wrong + 1) / (len(sent) + 1) <= risk:
            best = threshold
    return best
