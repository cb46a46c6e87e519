"""One set of coordinates for all models: the sample of any scheduler as a point of a flow, and back.

Whatever the process, x = a x0 + b noise. Divided by a + b it is (1 - t) x0 + t noise with t = b / (a + b), the point of
a rectified flow with the same noise-to-signal ratio; its velocity noise - x0 is finite at both ends, which neither
epsilon (useless at pure noise) nor anything in sigma (infinite there, for CogVideoX and flows) can say.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from accel.schedulers import Samples


class StatePoint(NamedTuple):
    """A sample in the common coordinates (float32) and what the denoiser answered there."""

    x: torch.Tensor
    velocity: torch.Tensor
    clean: torch.Tensor


def time_of(sigma: float, samples: Samples) -> float:
    """t of a noise level as `accel.clock.Timetable` counts it: a flow's time, else the noise-to-signal ratio."""
    return sigma if samples == "flow" else sigma / (1.0 + sigma)


def scale_of(sigma: float, samples: Samples) -> float:
    """a + b: what a sample of the scheduler is, divided by the same sample in the common coordinates."""
    if samples == "flow":
        return 1.0
    return 1.0 + sigma if samples == "exploding" else (1.0 + sigma) / math.sqrt(1.0 + sigma * sigma)


def point_of(sample: torch.Tensor, answer: torch.Tensor, sigma: float, samples: Samples, prediction: str) -> StatePoint:
    """The scheduler's sample and the denoiser's output to it, in the common coordinates.

    prediction: as the scheduler takes it.
    All tensors are new, because pipelines may go on to change theirs in place.
    """
    x, y = sample.float() * (1.0 / scale_of(sigma, samples)), answer.float()
    time = time_of(sigma, samples)
    if "flow" in prediction:
        velocity = y * (1.0 if prediction == "flow" else -1.0)
        return StatePoint(x, velocity, x - time * velocity)
    root = math.sqrt(1.0 + sigma * sigma)
    unit = x * ((1.0 + sigma) / root)  # of unit variance: a = 1 / root, b = sigma / root
    if prediction == "epsilon":
        clean, noise = (unit - (sigma / root) * y) * root, y
    elif "v_prediction" in prediction:
        y = y if prediction == "v_prediction" else -y
        clean, noise = unit / root - (sigma / root) * y, y / root + (sigma / root) * unit
    else:
        clean, noise = y * 1.0, (unit - y / root) * (root / max(sigma, 1e-6))
    return StatePoint(x, noise - clean, clean)
