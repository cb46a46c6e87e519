"""What one recording run measured, as plain frozen data: numbers for each step, for each denoiser of the pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# A row for each step, not all of the same length. Of an error curve: (sigma, error after 1 step, after 2 steps, ...).
Rows = tuple[tuple[float, ...], ...]

# Distances to the last computed step are recorded up to so many steps back.
LAGS = 8
# ... behind so many blocks: of `FirstBlockCache`, and of `DBCache` in its fast and in its careful setting.
DEPTHS = (1, 2, 8)


@dataclass(frozen=True)
class RunTrace:
    """One run of one denoiser, as its leading stream saw it: T steps.

    changes: T relative changes since the previous step, mean |now - before| / mean |before|, of each signal that caches
    name (`Cache.columns`) and this model has, of "latents", "first_block" and "block_output", and of "output", which
    the others are to predict; not a number where there is no previous step. drifts: for each of `DEPTHS` that this
    model has, T rows, the relative change of those first blocks' residual against 1, 2, ... `LAGS` steps before (fewer
    at the beginning). rates: T rows, how far the output moved for each unit that the input did,
    mean |out - out'| / mean |in - in'|, against the same steps. moves: T mean absolute changes of the input since the
    previous step, 0 at the first. sizes: T mean absolute outputs.
    """

    changes: Mapping[str, tuple[float, ...]]
    drifts: Mapping[int, Rows]
    rates: Rows
    moves: tuple[float, ...]
    sizes: tuple[float, ...]


@dataclass(frozen=True)
class StepTable:
    """One denoiser: its noise levels, its runs, and what is averaged over them.

    denoiser, kind, parameters: its name in the pipeline, its class and its size. start: index of its first step in
    `timetable`, the noise levels of the whole run and of its end; `sigmas` are those of its own T steps. ratios: T
    MagCache ratios, 1 at the first. curves: SmoothCache's error curves, for each kind of module. gram: the lower
    triangle of the (T, T) inner products of its outputs (its clean estimates, for epsilon and v models), mean over
    elements, rows of a batch, streams and runs, with the guidance's part in them (`RunRecord.inner_products`).
    """

    denoiser: str
    kind: str
    parameters: int
    start: int
    timetable: tuple[float, ...]
    runs: tuple[RunTrace, ...]
    ratios: tuple[float, ...]
    curves: tuple[tuple[str, Rows], ...]
    gram: Rows

    @property
    def steps(self) -> int:
        return len(self.ratios)

    @property
    def sigmas(self) -> tuple[float, ...]:
        return self.timetable[self.start : self.start + self.steps]

    @property
    def section(self) -> tuple[float, ...]:
        """The noise levels of its steps and of where the last of them leads to, (T + 1,)."""
        return self.timetable[self.start : self.start + self.steps + 1]

    def inner_products(self) -> Array:
        """The Gram matrix, (T, T). Raises ValueError where no stream was there in all steps with the same batch."""
        if not self.gram:
            raise ValueError(
                f"The {self.denoiser} had no stream that was there in every step, so there is nothing to plan with; "
                f"use OptimalSchedule, which needs no calibration."
            )
        matrix = np.zeros((self.steps, self.steps))
        for index, row in enumerate(self.gram):
            matrix[index, : index + 1] = matrix[: index + 1, index] = row
        return matrix

    def features(self) -> Array:
        """(T, K) numbers whose inner products are those of the outputs; K is their rank."""
        return features_of(self.inner_products())

    def pairs(self, signal: str) -> tuple[Array, Array]:
        """Changes of the signal and of the output at all steps of all runs where both are known."""
        found = [
            (x, y)
            for run in self.runs
            for x, y in zip(run.changes.get(signal, ()), run.changes["output"], strict=False)
            if math.isfinite(x) and math.isfinite(y)
        ]
        x, y = zip(*found, strict=True) if found else ((), ())
        return np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)


def features_of(products: Array) -> Array:
    """(T, K) numbers with these inner products, (T, T); K is their rank."""
    values, vectors = np.linalg.eigh(products)
    kept = values > max(float(values[-1]), 0.0) * 1e-9
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def round_value(value: float, digits: int = 5) -> float:
    """With so many significant digits: what is measured on a few prompts has no more, and files stay small."""
    return float(f"{value:.{digits}g}")


def round_row(values: Sequence[float], digits: int = 5) -> tuple[float, ...]:
    return tuple(round_value(value, digits) for value in values)


def falling(sigmas: Sequence[float]) -> bool:
    """Whether no noise level is above the one before it."""
    return all(before >= after for before, after in pairwise(sigmas))
