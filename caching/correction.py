"""The error that forecasts leave in the latents, and its correction at the next computed step.

A sampler's update is linear in the outputs, so what one unit of an output has made of the present sample is a number,
known from the noise levels alone. With it, the output of the first computed step after forecasts is changed so that the
sample arrives where the better outputs would have taken it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from accel.caching.predictor import PastValues, Steps
from accel.clock import StepContext
from accel.update import LinearUpdates

Tensors = list[torch.Tensor]


@dataclass
class Forecast:
    """An output that was forecast: when, and what one unit of it adds to the sample after the present step."""

    time: float
    influence: float


@dataclass
class PastOutput:
    """An output as the solver remembers it: how far it is from the right one, as far as that is known, and the
    forecast that it is, until it is known what that should have been."""

    missing: Tensors
    forecast: Forecast | None = None
    values: Tensors | None = None


class ForecastCorrector:
    """The accumulated error of one stream. Per step: `begin`, then `correct_forecast` or `correct_computed`.

    Under Euler steps it holds one sum of latent size. A solver that uses several outputs goes on using forecasts, and
    outputs that corrected forecasts, after them: what they lack is given with each later output until it has
    forgotten them, which takes two tensors of latent size for each output that it remembers besides the newest.
    """

    def __init__(self, updates: LinearUpdates) -> None:
        self._updates = updates
        self._position = -1
        self._restart()

    def _restart(self) -> None:
        self._past: list[PastOutput] = []
        self._forecasts: list[Forecast] = []
        self._total: Tensors = []  # sum of the forecasts, each times its influence
        self._pending: Tensors = []  # what the solver's older outputs lack in this step
        self._weight = 0.0

    @property
    def length(self) -> int:
        """Forecasts since the last computed step."""
        return len(self._forecasts)

    def begin(self, context: StepContext) -> None:
        """A step begins: works out what it will make of all outputs that still count."""
        if context.position != self._position + 1:  # steps that this lever has not seen
            self._restart()
        self._position = context.position
        keep, shares = self._updates.at(context.position) or (1.0, [0.0])
        self._total = [keep * total for total in self._total]
        for forecast in self._forecasts:
            forecast.influence *= keep
        self._weight, self._pending = shares[-1], []
        for given, share in zip(reversed(self._past), reversed(shares[:-1]), strict=False):
            if given.missing:
                self._pending = _add(self._pending, given.missing, share)
            if given.forecast is not None and given.values is not None:
                given.forecast.influence += share
                self._total = _add(self._total, given.values, share)

    def correct_forecast(self, forecast: PastValues) -> Tensors:
        """The values to return, given those of the forecast."""
        paid = self._applied(self._pending)
        entry = Forecast(forecast.time, self._weight)
        self._forecasts.append(entry)
        self._total = _add(self._total, forecast.values, self._weight)
        self._remember(PastOutput(_times(paid, -1.0), entry, forecast.values))
        return _sum(forecast.values, paid)

    def correct_computed(self, values: Tensors, between: Callable[[Steps], Tensors]) -> Tensors | None:
        """The values to return, given the computed ones, or None where they stay as they are.

        between: the weighted sum of what forecasts should have been.
        """
        due, steps = self._pending, [(forecast.time, forecast.influence) for forecast in self._forecasts]
        if any(influence for _, influence in steps):
            due = _add(_add(due, between([step for step in steps if step[1]]), 1.0), self._total, -1.0)
        for given in self._past:
            if given.forecast is not None and given.values is not None:
                lacks = _add(between([(given.forecast.time, 1.0)]), given.values, -1.0)
                given.missing, given.forecast, given.values = _add(given.missing, lacks, 1.0), None, None
        self._forecasts, self._total = [], []
        paid = self._applied(due)
        self._remember(PastOutput(_times(paid, -1.0)))
        return _sum(values, paid) if paid else None

    def kept_tensors(self) -> Tensors:
        """Tensors kept for later steps."""
        return [*self._total, *(value for given in self._past for value in [*given.missing, *(given.values or [])])]

    def _applied(self, due: Tensors) -> Tensors:
        return _times(due, 1.0 / self._weight) if self._weight else []

    def _remember(self, given: PastOutput) -> None:
        depth = self._updates.depth
        self._past = [*self._past, given][-(depth - 1) :] if depth > 1 else []


def _add(total: Tensors, values: Tensors, share: float) -> Tensors:
    """total + share × values in float32; an empty list is zero."""
    if not values or not share:
        return total
    scaled = [share * value.float() for value in values]
    return [a + b for a, b in zip(total, scaled, strict=True)] if total else scaled


def _times(values: Tensors, share: float) -> Tensors:
    return [share * value for value in values]


def _sum(values: Tensors, paid: Tensors) -> Tensors:
    return [(a.float() + b).to(a.dtype) for a, b in zip(values, paid, strict=True)] if paid else values
