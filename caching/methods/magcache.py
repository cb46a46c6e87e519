"""MagCache: a schedule from how the residual's magnitude falls, measured once for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod, NotApplicable
from accel.caching.calibration import published
from accel.caching.calibration.recorded_signals import Distance, no_distance
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.policy import AccumulatedMagnitude, Policy
from accel.caching.signal import NoSignal, Signal
from accel.method import finite_numbers, setting

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration


@dataclass(frozen=True)
class MagCache(CacheMethod):
    """Skips while the accumulated deviation of the residual's magnitude stays within `threshold`.

    Source: MagCache (arXiv 2506.09045), section 3.3. ratios: the residual's mean norm over that of the step before, one
    for each step of the calibration run, first entry 1; by default the published set for this model. retention:
    fraction of the run that computes first; most: longest run of predictions. The schedule depends on the step number
    only: no measurement, no host sync. `final=0` lets the last step be predicted, as published.
    A model without ratios is left alone and the report says how to get them: `accel.calibrate`.
    Memory: the predictor's outputs. Not for another scheduler or shift than
    the ratios were measured with: measure again.
    """

    data_free = True

    threshold: float = setting(0.12, 0.0, None, "deviation that may accumulate", dial=True)
    most: int = setting(4, 1, 1000, "longest run of predictions")
    retention: float = setting(0.2, 0.0, 1.0, "fraction of the run that computes first")
    ratios: tuple[float, ...] | None = None
    model: str | None = None
    _: KW_ONLY
    warmup: int = setting(1, 1, 1000, "first steps that always compute")
    max_skips: int = setting(1000, 1, 1000, "most predictions in a row")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratios is not None and not (finite_numbers(self.ratios) and len(self.ratios) > 1):
            raise ValueError(f"MagCache.ratios must be a tuple of at least two numbers, not {self.ratios!r}.")
        published.check("magcache", self.model)

    @classmethod
    def from_calibration(
        cls,
        calibration: Calibration,
        threshold: float = 0.12,
        most: int = 4,
        retention: float = 0.2,
        steps: int | None = None,
        **guards: Any,
    ) -> MagCache:
        """With the mean ratio of each step over all recorded runs, 1 at the first step of each denoiser.

        steps: of the runs to come, where they differ from the recorded ones. guards: see `TeaCache`.
        """
        wanted = calibration.at(steps)
        ratios = [1.0] * (len(wanted.timetable) - 1)
        for table in wanted.tables:
            ratios[table.start : table.start + table.steps] = table.ratios
        return cls(threshold, most, retention, ratios=tuple(ratios), **guards)

    @classmethod
    def for_comparison(cls) -> Sequence[MagCache]:
        return (cls(most=7),)

    def fitted(self, calibration: Calibration) -> Self:
        known = self.ratios or self.model
        return self if known else replace(self, ratios=self.from_calibration(calibration).ratios)

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        ratios = self.ratios
        if ratios is None:
            found = published.magcache(anatomy, denoiser, self.model)
            if isinstance(found, str):
                raise NotApplicable(
                    f"MagCache has no ratios for {anatomy.denoisers[denoiser].kind} of this size ({found}). "
                    f"Measure them once with accel.calibrate(pipe, prompts).magcache() "
                    f"or use EasyCache, which needs none."
                )
            ratios = found
        return NoSignal(), AccumulatedMagnitude(ratios, self.threshold, self.most, self.retention)

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        if self.ratios is None:
            raise ValueError("MagCache without ratios cannot be simulated; take those of calibration.magcache().")
        return no_distance, AccumulatedMagnitude(self.ratios, self.threshold, self.most, self.retention)
