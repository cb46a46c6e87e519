"""What the latents owe to forecasts, and how the next computed answer pays for it.

A sampler's update is linear in the answers, so what one unit of an answer has made of the present sample is a number,
known from the noise levels alone. With it, the first computed step after forecasts is answered such that the sample
arrives where it would be had the better answers been used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from accel.caching.predictor import Memory, Steps
from accel.clock import Moment
from accel.update import Updates

Tensors = list[torch.Tensor]


@dataclass
class Forecast:
    """An answer that was forecast: when, and what one unit of it makes of the sample after the present step."""

    time: float
    influence: float


@dataclass
class Given:
    """An answer as the solver remembers it: what it lacks of the right one as far as that is known, and the forecast
    that it is, until it is known what that should have been."""

    owed: Tensors
    forecast: Forecast | None = None
    values: Tensors | None = None


class Gap:
    """The debt of one stream. Per step: `begin`, then `predicted` or `computed`.

    Under Euler steps it holds one sum of latent size. A solver that uses several answers goes on using forecasts, and
    answers that paid for forecasts, after the gap: what they lack is given with each later answer until it has
    forgotten them, which takes two tensors of latent size for each answer that it remembers besides the newest.
    """

    def __init__(self, updates: Updates) -> None:
        self._updates = updates
        self._position = -1
        self._restart()

    def _restart(self) -> None:
        self._given: list[Given] = []
        self._forecasts: list[Forecast] = []
        self._total: Tensors = []  # sum of the forecasts, each times its influence
        self._due: Tensors = []  # what the solver's older answers lack in this step
        self._weight = 0.0

    @property
    def length(self) -> int:
        """Forecasts since the last computed step."""
        return len(self._forecasts)

    def begin(self, moment: Moment) -> None:
        """A step begins: what it will make of all answers that still count."""
        if moment.position != self._position + 1:  # steps that this lever has not seen
            self._restart()
        self._position = moment.position
        keep, shares = self._updates.at(moment.position) or (1.0, [0.0])
        self._total = [keep * total for total in self._total]
        for forecast in self._forecasts:
            forecast.influence *= keep
        self._weight, self._due = shares[-1], []
        for given, share in zip(reversed(self._given), reversed(shares[:-1]), strict=False):
            self._due = _added(self._due, given.owed, share)
            if given.forecast is not None and given.values is not None:
                given.forecast.influence += share
                self._total = _added(self._total, given.values, share)

    def predicted(self, forecast: Memory) -> Tensors:
        """The values to answer with, given those of the forecast."""
        paid = self._paid(self._due)
        entry = Forecast(forecast.time, self._weight)
        self._forecasts.append(entry)
        self._total = _added(self._total, forecast.values, self._weight)
        self._remember(Given(_times(paid, -1.0), entry, forecast.values))
        return _sum(forecast.values, paid)

    def computed(self, values: Tensors, between: Callable[[Steps], Tensors]) -> Tensors | None:
        """The values to answer with, given the computed ones, or None where they are to stay as they are.

        between: the weighted sum of what forecasts should have been.
        """
        due, steps = self._due, [(forecast.time, forecast.influence) for forecast in self._forecasts]
        if any(influence for _, influence in steps):
            due = _added(_added(due, between([step for step in steps if step[1]]), 1.0), self._total, -1.0)
        for given in self._given:
            if given.forecast is not None and given.values is not None:
                lacks = _added(between([(given.forecast.time, 1.0)]), given.values, -1.0)
                given.owed, given.forecast, given.values = _added(given.owed, lacks, 1.0), None, None
        self._forecasts, self._total = [], []
        paid = self._paid(due)
        self._remember(Given(_times(paid, -1.0)))
        return _sum(values, paid) if paid else None

    def held(self) -> Tensors:
        """Tensors kept for later steps."""
        return [*self._total, *(value for given in self._given for value in [*given.owed, *(given.values or [])])]

    def _paid(self, due: Tensors) -> Tensors:
        return _times(due, 1.0 / self._weight) if self._weight else []

    def _remember(self, given: Given) -> None:
        depth = self._updates.depth
        self._given = [*self._given, given][-(depth - 1) :] if depth > 1 else []


def _added(total: Tensors, values: Tensors, share: float) -> Tensors:
    """total + share × values in float32; an empty list is zero."""
    if not values or not share:
        return total
    scaled = [share * value.float() for value in values]
    return [a + b for a, b in zip(total, scaled, strict=True)] if total else scaled


def _times(values: Tensors, share: float) -> Tensors:
    return [share * value for value in values]


def _sum(values: Tensors, paid: Tensors) -> Tensors:
    return [(a.float() + b).to(a.dtype) for a, b in zip(values, paid, strict=True)] if paid else values
