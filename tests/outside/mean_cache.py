"""A cache that looks at the latents' mean colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod
from accel.caching.calibration.recorded_signals import Distance, change_of
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.policy import AccumulatedDistance, Policy
from accel.caching.signal import Probe, Signal, relative_distance
from accel.call import DenoiserCall
from accel.method import setting


@dataclass(frozen=True)
class MeanCache(CacheMethod):
    """Skips while the accumulated relative change of the latents' channel means stays under `threshold`."""

    threshold: float = setting(0.1, 0.0, None, "relative change that may accumulate; 0 never skips", dial=True)

    @classmethod
    def for_tuning(cls) -> Sequence[MeanCache]:
        return (cls(warmup=2, max_skips=7),)

    @classmethod
    def columns(cls, anatomy: Anatomy, denoiser: str) -> Mapping[str, Signal]:
        return {"channel_means": MeanChange()}

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        return MeanChange(), AccumulatedDistance(self.threshold)

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        return change_of("channel_means", "MeanCache", table, trace), AccumulatedDistance(self.threshold)


class MeanChange:
    """Relative change of the channel means, (B, C), since the step before."""

    probe: Probe | None = None
    note: str | None = None

    def __init__(self) -> None:
        self._before: torch.Tensor | None = None

    def observe(self, call: DenoiserCall, heard: torch.Tensor | None) -> float | None:
        before, self._before = self._before, call.latents[0].detach().float().flatten(2).mean(2)
        return None if before is None else relative_distance([self._before], [before])

    def after_compute(self, call: DenoiserCall, outputs: list[torch.Tensor]) -> None:
        pass

    def kept_tensors(self) -> list[torch.Tensor]:
        return [] if self._before is None else [self._before]
