"""Corrections by what was measured of a model, in place of a polynomial's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from accel.caching.extrapolate import Extrapolate, combined
from accel.caching.predictor import PastValues, Steps
from accel.parametrization import Array, distinct, lagrange

NODES = 3  # computed outputs that say what lay between the last two of them; with a fourth it is as good
# Of the mean squared difference of neighbouring nodes, how much the weights are drawn to a straight line's. 1e-3 is as
# good on the judges; without it the weights would fit the digits that features are rounded to.
RIDGE = 1e-2
TINY = 1e-12  # of outputs that stand still every sum is right, and this takes the straight line's


@dataclass(frozen=True)
class MeasuredWay:
    """How the outputs of one denoiser lie to one another over a run. rows: by the time of a step, numbers whose inner
    products are those of the outputs (`OutputFeatures.at`).
    """

    rows: Mapping[float, Array] = field(default_factory=dict)

    def weights(self, times: Sequence[float], steps: Steps) -> list[float] | None:
        """Of outputs at these times, the last of which surround the steps, in the weighted sum of the outputs at
        `steps`: by least squares on what was measured. None where a step was not.
        """
        if len(times) < 2 or not all(time in self.rows for time in (*times, *(time for time, _ in steps))):
            return None
        nodes = np.stack([self.rows[time] for time in times])  # (nodes, K)
        straight = np.zeros((len(steps), len(times)))
        straight[:, -2:] = [lagrange(times[-2:], time) for time, _ in steps]
        missing = np.stack([self.rows[time] for time, _ in steps]) - straight @ nodes  # (steps, K)
        ridge = RIDGE * np.square(np.diff(nodes, axis=0)).sum(1).mean() + TINY * np.square(nodes).sum()
        bent = np.linalg.solve(nodes @ nodes.T + ridge * np.eye(len(nodes)), nodes @ missing.T).T
        found: list[float] = (np.asarray([weight for _, weight in steps]) @ (straight + bent)).tolist()
        return found


@dataclass(frozen=True)
class MeasuredExtrapolate(Extrapolate, abstract=True):
    """`Extrapolate` with corrections by how this model's outputs lay to one another when it was measured.

    A polynomial through computed outputs is a guess at what lay between them. Of a measured model it is known which
    weighted sum of the outputs at the same noise levels came nearest, and weights are a few numbers that hold for other
    prompts. Forecasts stay what they are: with weights that were fitted in the same way they are 0 to 3 dB worse under
    UniPC, because a forecast answers to its own errors and weights do not know of them (docs/negative-results.md).
    Not published. Memory: no more than `Extrapolate`.
    """

    way: MeasuredWay = field(default_factory=MeasuredWay)

    @classmethod
    def of(cls, predictor: Extrapolate, way: MeasuredWay) -> MeasuredExtrapolate:
        """The same predictor with these corrections."""
        given: dict[str, Any] = {each.name: getattr(predictor, each.name) for each in fields(Extrapolate)}
        return cls(**given, way=way)

    def between(self, now: PastValues, history: list[PastValues], steps: Steps) -> list[torch.Tensor]:
        nodes = distinct([*history, now][-NODES:])
        weights = self.way.weights([node.time for node in nodes], steps)
        return super().between(now, history, steps) if weights is None else combined(nodes, weights)
