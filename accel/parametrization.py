"""Noise levels, times, and what a network's output says: the arithmetic that every lever shares.

Whatever the process, a sample is x = a x0 + b noise, and whatever the network predicts, its output is p x0 + q noise.
Divided by a + b a sample is (1 - t) x0 + t noise with t = b / (a + b): the point of a rectified flow with the same
noise-to-signal ratio. Its velocity noise - x0 is finite at both ends, which neither epsilon (useless at pure noise) nor
anything in sigma (infinite there, for CogVideoX and flows) can say. These are the common coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Number = TypeVar("Number", float, Array)

# "flow" is v = noise - x0; "inverted_..." is the negative (Mochi's and Z-Image's flows, the preconditioned outputs of
# EDM); "unknown" is an output of which nothing is known but itself.
Prediction = Literal[
    "flow", "inverted_flow", "epsilon", "v_prediction", "inverted_v_prediction", "sample", "unknown"
]  # fmt: skip

# How a scheduler's samples are scaled: a flow's (1 - t) x0 + t noise, unit variance (DDIM), or x0 + sigma noise
# (Euler).
Samples = Literal["flow", "preserving", "exploding"]


class Conversion(NamedTuple):
    """x0 = from_input × network input + from_output × output."""

    from_input: float
    from_output: float


class StatePoint(NamedTuple):
    """A sample in the common coordinates (float32) and what the denoiser answered there."""

    x: torch.Tensor
    velocity: torch.Tensor
    clean: torch.Tensor


def flow_time(sigma: Number, flow: bool) -> Number:
    """t of a noise level as `accel.clock.Timetable` counts it: a flow's time (it runs 1..0) is sigma itself; otherwise
    sigma is noise over signal, from tens to hundredths, and in t predictions are smooth.
    """
    return sigma if flow else sigma / (1.0 + sigma)


def shares(sigma: float, samples: Samples) -> tuple[float, float]:
    """a and b: of signal and noise in a sample."""
    if samples == "flow":
        return 1.0 - sigma, sigma
    root = math.sqrt(1.0 + sigma * sigma)
    return (1.0, sigma) if samples == "exploding" else (1.0 / root, sigma / root)


def scale_of(sigma: float, samples: Samples) -> float:
    """a + b: what a sample of the scheduler is, divided by the same sample in the common coordinates."""
    if samples == "flow":
        return 1.0
    return 1.0 + sigma if samples == "exploding" else (1.0 + sigma) / math.sqrt(1.0 + sigma * sigma)


def euler_weights(sigmas: Array, flow: bool) -> Array:
    """What one unit of the output (or of the clean estimate) adds to the latents in each Euler step, (steps + 1) levels
    -> (steps), in coordinates in which the updates of all steps add up: the latents divided by the scale of the signal,
    or by that of the noise.
    """
    return np.asarray(np.diff(sigmas) if flow else np.diff(1.0 / np.maximum(sigmas, 1e-4)))


@lru_cache(maxsize=4096)
def conversion(sigma: float, kind: str) -> Conversion:
    """At this noise level (a flow's time, else the noise-to-signal ratio of an input of unit variance)."""
    sign = -1.0 if kind.startswith("inverted") else 1.0
    if "flow" in kind:
        return Conversion(1.0, -sign * sigma)
    root = math.sqrt(1.0 + sigma * sigma)
    if kind == "epsilon":
        return Conversion(root, -sigma)
    return Conversion(1.0 / root, -sign * sigma / root) if "v_prediction" in kind else Conversion(0.0, 1.0)


def output_shares(sigma: float, kind: str) -> tuple[float, float]:
    """p and q of output = p x0 + q noise."""
    signal, noise = shares(sigma, "flow" if "flow" in kind else "preserving")
    from_input, from_output = conversion(max(sigma, 1e-6), kind)
    return (1.0 - from_input * signal) / from_output, -from_input * noise / from_output


def clean_from_output(output: torch.Tensor, latents: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """x0 (float32) from the network's input and output."""
    from_input, from_output = conversion(sigma, kind)
    seen = latents.float() if from_input == 1.0 else from_input * latents.float()
    return seen + from_output * output.float()


def output_from_clean(clean: torch.Tensor, latents: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """The inverse of `clean_from_output`, in the dtype of the latents."""
    from_input, from_output = conversion(max(sigma, 1e-6), kind)
    wide = torch.promote_types(latents.dtype, torch.float32)
    return ((clean.to(wide) - from_input * latents.to(wide)) / from_output).to(latents.dtype)


def point_of(sample: torch.Tensor, answer: torch.Tensor, sigma: float, samples: Samples, prediction: str) -> StatePoint:
    """The scheduler's sample and the denoiser's output to it, in the common coordinates.

    prediction: as the scheduler takes it.
    The velocity and the clean estimate are new, because pipelines may go on to change their tensors in place.
    """
    scale, time = scale_of(sigma, samples), flow_time(sigma, samples == "flow")
    x = sample.float() if scale == 1.0 else sample.float() * (1.0 / scale)
    if "flow" in prediction:
        velocity = answer.to(torch.float32, copy=True) if prediction == "flow" else -answer.float()
        return StatePoint(x, velocity, x - time * velocity)
    y = answer.float()
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


def prediction_in(clean: float, noise: float, sigma: float, flow: bool) -> Prediction:
    """What an output of `clean` x0 + `noise` noise is called at this noise level, whatever its scale; or "unknown"."""
    signal = 1.0 / math.sqrt(1.0 + sigma * sigma)
    known: dict[Prediction, tuple[float, float]] = {"epsilon": (0.0, 1.0), "sample": (1.0, 0.0)}
    if flow:
        known |= {"flow": (-1.0, 1.0), "inverted_flow": (1.0, -1.0)}
    else:
        known |= {"v_prediction": (-sigma * signal, signal), "inverted_v_prediction": (sigma * signal, -signal)}
    size = math.hypot(clean, noise) or 1.0
    for name, (p, q) in known.items():
        length = math.hypot(p, q)
        if math.hypot(clean / size - p / length, noise / size - q / length) < 0.1:
            return name
    return "unknown"


class _AtTime(Protocol):
    @property
    def time(self) -> float: ...


Known = TypeVar("Known", bound=_AtTime)


def distinct(known: Sequence[Known]) -> list[Known]:
    """The last of each time: a solver may evaluate twice at one noise level (PNDM)."""
    return list({one.time: one for one in known}.values())


def lagrange(times: Sequence[Number], now: Number) -> list[Any]:
    """The weights of the values at distinct `times` in the value at `now` of the polynomial through them."""
    return [
        math.prod((now - other) / (known - other) for at, other in enumerate(times) if at != index)
        for index, known in enumerate(times)
    ]


def interpolation_weights(times: Sequence[float], steps: Sequence[tuple[float, float]]) -> list[float]:
    """For values at `times`, the weights with which Lagrange's polynomial through them gives the weighted sum over
    `steps`, pairs of a time and a weight.
    """
    parts = [[weight * share for share in lagrange(times, time)] for time, weight in steps]
    return [sum(each) for each in zip(*parts, strict=True)]


def extrapolation_weights(times: list[float], now: float) -> tuple[list[float], list[float]]:
    """Weights of the values at up to three `times` (oldest first) that continue them to `now`.

    The first list is the straight line's and sums to 1; the second, which sums to 0, is what makes a parabola of it
    (Newton's second divided difference). Coinciding times lower the order.
    """
    flat = [0.0] * len(times)
    line = [*flat[:-1], 1.0]
    if len(times) == 1 or times[-1] == times[-2]:
        return line, flat
    b, c = times[-2:]
    slope = (now - c) / (c - b)
    line = [*flat[:-2], -slope, 1.0 + slope]
    if len(times) < 3 or len(set(times)) < 3:
        return line, flat
    a, bend = times[0], (now - c) * (now - b)
    return line, [bend / ((a - b) * (a - c)), bend / ((b - a) * (b - c)), bend / ((c - a) * (c - b))]
