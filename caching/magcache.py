"""MagCache: a schedule from how the residual's magnitude falls, measured once for a model."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from accel.anatomy import Anatomy
from accel.caching import published
from accel.caching.decider import Decider, Magnitude
from accel.caching.method import CacheMethod, NotApplicable
from accel.caching.signal import NoSignal, Signal
from accel.method import finite_numbers, knob


@dataclass(frozen=True)
class MagCache(CacheMethod):
    """Skips while the accumulated deviation of the residual's magnitude stays within `threshold`.

    Source: MagCache (arXiv 2506.09045), section 3.3. ratios: the residual's mean norm over that of the step before, one
    for each step of the calibration run, first entry 1; by default the published set for this model. retention:
    fraction of the run that computes first; most: longest run of predictions. The schedule depends on the step number
    only: no measurement, no host sync. `final=0` lets the last step be predicted, as published.
    A model without ratios is left alone and the report says how to get them: `accel.calibrate`.
    Memory: the predictor's outputs. Ratios belong to a scheduler and its shift: measure again where those change.
    """

    threshold: float = knob(0.12, 0.0, None, "deviation that may accumulate")
    most: int = knob(4, 1, 1000, "longest run of predictions")
    retention: float = knob(0.2, 0.0, 1.0, "fraction of the run that computes first")
    ratios: tuple[float, ...] | None = None
    model: str | None = None
    _: KW_ONLY
    warmup: int = knob(1, 1, 1000, "first steps that always compute")
    max_skips: int = knob(1000, 1, 1000, "most predictions in a row")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratios is not None and not (finite_numbers(self.ratios) and len(self.ratios) > 1):
            raise ValueError(f"MagCache.ratios must be a tuple of at least two numbers, not {self.ratios!r}.")
        published.check("magcache", self.model)

    def parts(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Decider]:
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
        return NoSignal(), Magnitude(ratios, self.threshold, self.most, self.retention)
