"""A model's measured outputs as a recipe keeps them: how they lie to one another, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from accel.anatomy import Anatomy
from accel.caching.calibration.resample import cubic
from accel.caching.calibration.table import Array, Rows, StepTable, falling, round_row
from accel.method import Method, finite_numbers, nested_method
from accel.parametrization import flow_time

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration

# Noise levels are compared as flow times, 1..0. A run may begin or end this far outside of what was measured, where the
# nearest measured output stands in: the ends of timetables depend on the step count.
REACH = 0.1
# Features that are smaller than this share of all are those of one prompt, and not of the model.
CUT = 3e-3


@dataclass(frozen=True)
class OutputFeatures(Method, lever="features"):
    """Numbers for each noise level whose inner products are those of one denoiser's outputs (`StepTable.features`).

    Made by `accel.accelerate(pipe, calibration=...)` and not by hand. They are read by noise level, so they hold at
    other step counts, shifts and schedulers of the same parametrisation. For 50 steps a recipe grows by some 10 kB.

    origin: the denoiser's name in the pipeline, its class, what it predicts, and the scheduler of the recorded run.
    parameters: its size. sigmas: T noise levels. rows: T rows of K features. guidance: the scale of the recorded call.
    also: the same of another denoiser of the pipeline, or measured at another guidance scale.
    """

    origin: tuple[str, str, str, str]
    parameters: int
    sigmas: tuple[float, ...]
    rows: Rows
    guidance: float | None = None
    _: KW_ONLY
    also: OutputFeatures | None = nested_method(None, "features")  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        given: tuple[Any, ...] = self.rows if isinstance(self.rows, tuple) else ()
        object.__setattr__(self, "rows", tuple(tuple(row) if isinstance(row, list) else row for row in given))
        texts = isinstance(self.origin, tuple) and len(self.origin) == 4
        whole = all(map(finite_numbers, (self.sigmas, *self.rows))) and len({len(row) for row in self.rows}) == 1
        guidance = self.guidance is None or finite_numbers((self.guidance,))
        fits = whole and guidance and len(self.rows) == len(self.sigmas) and falling(self.sigmas)
        if not (fits and texts and all(isinstance(text, str) for text in self.origin) and min(self.sigmas) >= 0):
            raise ValueError(
                "OutputFeatures are written by accel.accelerate(pipe, calibration=...), and these have been changed "
                "since: calibrate again."
            )

    @classmethod
    def of(cls, calibration: Calibration, beside: OutputFeatures | None = None) -> OutputFeatures | None:
        """Those of every denoiser in a calibration, or None where of none there is a stream that was there in every
        step, with finite outputs and falling noise levels.

        beside: others to keep, as far as they are of the same denoisers at other guidance scales.
        """
        key = calibration.key
        names = {(table.denoiser, table.kind, key.prediction) for table in calibration.tables}
        kept = [one for one in _chain(beside) if one.origin[:3] in names and one.guidance != key.guidance]
        made = [
            _measured(table, key.prediction, key.scheduler, key.guidance)
            for table in calibration.tables
            if table.gram and falling(table.sigmas) and all(map(finite_numbers, table.gram))
        ]
        found: OutputFeatures | None = None
        for one in [*reversed(kept), *reversed(made)]:
            found = replace(one, also=found)
        return found

    def misfit(self, anatomy: Anatomy) -> str:
        """Why they say nothing about this pipeline, in one sentence; "" where they fit."""
        for name, denoiser in anatomy.denoisers.items():
            mine = [one for one in _chain(self) if one.origin[0] == name]
            if not mine:
                return f"the {name} was not measured, but {_listed(one.origin[0] for one in _chain(self))}"
            for one in mine:
                if (one.origin[1], one.parameters) != (denoiser.kind, denoiser.parameters):
                    sizes = f"{one.parameters / 1e6:.4g} M parameters, and this is {denoiser.kind} of"
                    return f"the {name} measured was {one.origin[1]} of {sizes} {denoiser.parameters / 1e6:.4g} M"
                if one.origin[2] != anatomy.prediction:
                    return f"the {name} was measured for {one.origin[2]} prediction, and this is {anatomy.prediction}"
        return ""

    def at(self, denoiser: str, levels: Sequence[float], guidance: float | None = None) -> Array:
        """(len(levels), K) features of a denoiser at these noise levels; between two guidance scales that were
        measured, those of outputs that are linear in the scale's square, as inner products are.

        Raises ValueError, in one clause, for levels outside of what was measured.
        """
        mine = sorted((one for one in _chain(self) if one.origin[0] == denoiser), key=lambda one: one.guidance or 0.0)
        known = [one.guidance for one in mine if one.guidance is not None]
        if guidance is None or len(known) < 2:
            return mine[0]._read(levels)
        scale = min(max(guidance, known[0]), known[-1])
        above = next(index for index in range(1, len(known)) if scale <= known[index])
        low, high = known[above - 1], known[above]
        share = (scale**2 - low**2) / (high**2 - low**2)
        below = math.sqrt(1.0 - share) * mine[above - 1]._read(levels)
        return np.hstack([below, math.sqrt(share) * mine[above]._read(levels)])

    def scales(self) -> tuple[float, ...]:
        """The guidance scales that were measured, rising."""
        return tuple(sorted({one.guidance for one in _chain(self) if one.guidance is not None}))

    def _read(self, levels: Sequence[float]) -> Array:
        kind = self.origin[2]
        known, wanted = ([flow_time(sigma, "flow" in kind) for sigma in sigmas] for sigmas in (self.sigmas, levels))
        if max(wanted) > known[0] + REACH or min(wanted) < known[-1] - REACH:
            spans = [f"{max(sigmas):.4g} to {min(sigmas):.4g}" for sigmas in (levels, self.sigmas)]
            raise ValueError(f"the run's noise levels go from {spans[0]}, and those measured from {spans[1]}")
        return np.asarray(cubic(known, wanted) @ np.asarray(self.rows))

    @property
    def source(self) -> str:
        """What was recorded, for reports."""
        scales = _listed(f"{scale:g}" for scale in self.scales())
        at = f" at guidance {scales}" if scales else ""
        return f"{len(self.sigmas)} steps of {self.origin[3]}{at}"

    def __str__(self) -> str:
        return "measured"


def _measured(table: StepTable, prediction: str, scheduler: str, guidance: float | None) -> OutputFeatures:
    features = table.features()
    kept = features[:, np.linalg.norm(features, axis=0) > CUT * np.linalg.norm(features)]
    rows = tuple(round_row(row, 4) for row in kept.tolist())
    return OutputFeatures(
        (table.denoiser, table.kind, prediction, scheduler), table.parameters, table.sigmas, rows, guidance
    )


def _chain(first: OutputFeatures | None) -> Iterator[OutputFeatures]:
    while first is not None:
        yield first
        first = first.also


def _listed(words: Iterator[str]) -> str:
    return " and ".join(dict.fromkeys(words))
