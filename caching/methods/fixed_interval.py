"""Fixed interval: the simplest cache, and with a good predictor one of the best."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Self

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod
from accel.caching.calibration.recorded_signals import Distance, no_distance
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.policy import EveryNth, Policy
from accel.caching.signal import NoSignal, Signal
from accel.method import setting

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration


@dataclass(frozen=True)
class FixedInterval(CacheMethod):
    """Computes every `interval`-th step and predicts the others.

    Source: the uniform schedule of DeepCache (arXiv 2312.00858) and of FORA (arXiv 2407.01425), here at the denoiser's
    boundary.

    Needs no constants, no measurement and no host sync, decides alike for every prompt, sample and device, and suits
    compiled models. Do not use it where the content changes abruptly (few steps, strong guidance late in the run).
    Memory: the predictor's, order + 1 outputs of latent size per stream.
    """

    data_free = True

    interval: int = setting(2, 1, 1000, "compute every n-th step; 1 never skips", dial=True)
    _: KW_ONLY
    max_skips: int = setting(1000, 1, 1000, "most predictions in a row")

    def at_share(self, share: float, calibration: Calibration | None, steps: int) -> Self:
        """The interval whose share it is; what guards compute comes on top."""
        return replace(self, interval=max(round(1.0 / share), 1))

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        return NoSignal(), EveryNth(self.interval)

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        return no_distance, EveryNth(self.interval)
