"""A hidden state as full evaluations left it, and where a straight line through the last of them leads."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch

from accel.caching.hindsight import hindsight

Tensors = list[torch.Tensor]


@dataclass
class KeptFeature:
    """One hidden state of one stream. line: the most of the way along a line that it goes; 0 holds it.

    How far it goes is read off the last state that was computed, as forecasts of outputs do it
    (`accel.caching.hindsight`): sample by sample, and without a host sync.
    """

    line: float = 0.0
    _past: list[tuple[float, Tensors]] = field(default_factory=list)
    _shares: list[torch.Tensor | float] = field(default_factory=list)

    @property
    def known(self) -> bool:
        return bool(self._past)

    @property
    def tensors(self) -> Tensors:
        """All that it holds."""
        return [value for _, values in self._past for value in values]

    def keep(self, time: float, values: Tensors) -> None:
        """The state as it was computed at this time (`StepContext.time`)."""
        self._past = [*self._past, (time, [value.detach().clone() for value in values])][-3 if self.line else -1 :]
        self._shares = self._how_far(len(values)) if len(self._past) > 1 else []

    def at(self, time: float) -> Tensors:
        """The state at this time, in new tensors; there must be one."""
        now, last = self._past[-1]
        if not self._shares:
            return [value.clone() for value in last]
        before, first = self._past[-2]
        ahead = (time - now) / (now - before)
        return [
            (b.float() + share * ahead * (b.float() - a.float())).to(b.dtype)
            for a, b, share in zip(first, last, self._shares, strict=True)
        ]

    def _how_far(self, count: int) -> list[torch.Tensor | float]:
        """For each tensor how much of the way to go; none where states of one time say nothing of a way."""
        times = [time for time, _ in self._past]
        if any(sooner == later for sooner, later in pairwise(times)):
            return []
        if len(times) < 3:
            return [self.line] * count
        ahead = (times[2] - times[1]) / (times[1] - times[0])
        seen = [hindsight(b, b.float() + ahead * (b.float() - a.float()), c) for a, b, c in self._triples()]
        return [(one.slope * one.trust).clamp_max(self.line) for one in seen]

    def _triples(self) -> list[tuple[torch.Tensor, ...]]:
        return list(zip(*(values for _, values in self._past), strict=True))
