"""A cache that looks at the latents' mean colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from accel.anatomy import Anatomy
from accel.caching.decider import Accumulate, Decider
from accel.caching.method import CacheMethod
from accel.caching.recorded_signals import Distance, change_of
from accel.caching.signal import Probe, Signal, relative_distance
from accel.caching.table import Table, Trace
from accel.calls import Call
from accel.method import knob


@dataclass(frozen=True)
class MeanCache(CacheMethod):
    """Skips while the accumulated relative change of the latents' channel means stays under `threshold`."""

    threshold: float = knob(0.1, 0.0, None, "relative change that may accumulate; 0 never skips", dial=True)

    @classmethod
    def for_tuning(cls) -> Sequence[MeanCache]:
        return (cls(warmup=2, max_skips=7),)

    @classmethod
    def columns(cls, anatomy: Anatomy, denoiser: str) -> Mapping[str, Signal]:
        return {"channel_means": MeanChange()}

    def parts(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Decider]:
        return MeanChange(), Accumulate(self.threshold)

    def recorded_parts(self, table: Table, trace: Trace, anatomy: Anatomy | None = None) -> tuple[Distance, Decider]:
        return change_of("channel_means", "MeanCache", table, trace), Accumulate(self.threshold)


class MeanChange:
    """Relative change of the channel means, (B, C), since the step before."""

    probe: Probe | None = None
    note: str | None = None

    def __init__(self) -> None:
        self._before: torch.Tensor | None = None

    def observe(self, call: Call, heard: torch.Tensor | None) -> float | None:
        before, self._before = self._before, call.latents[0].detach().float().flatten(2).mean(2)
        return None if before is None else relative_distance([self._before], [before])

    def computed(self, call: Call, outputs: list[torch.Tensor]) -> None:
        pass

    def held(self) -> list[torch.Tensor]:
        return [] if self._before is None else [self._before]
