"""A solver between Euler and Adams-Bashforth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.method import setting
from accel.samplers.sampler import Sampler, UpdateWeights


@dataclass(frozen=True)
class CarefulAdams(Sampler):
    """Continues the velocity along a straight line through the last two, for the share `trust` of the way."""

    trust: float = setting(0.5, 0.0, 1.0, "0 is Euler, 1 is Adams-Bashforth of order 2", dial=True)

    @classmethod
    def for_tuning(cls) -> Sequence[CarefulAdams]:
        return (cls(steps=0.5),)

    @property
    def depth(self) -> int:
        return 2

    def weights(self, times: Sequence[float], following: float, remaining: int) -> UpdateWeights:
        step = following - times[-1]
        if len(times) == 1:
            return UpdateWeights(1.0, (step,))
        bent = self.trust * step * step / (times[-1] - times[-2]) / 2
        return UpdateWeights(1.0, (-bent, step + bent))
