"""What a network's output says: the clean estimate that it implies, and the coordinate in which predictions are smooth.

With a and b the shares of signal and noise in the network's input, x = a x0 + b noise, every parametrisation is a
combination of the same two: output = p x0 + q noise.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

# "flow" is v = noise - x0; "inverted_..." is the negative (Mochi's and Z-Image's flows, the preconditioned outputs of
# EDM); "unknown" is an output of which nothing is known but itself.
Prediction = Literal[
    "flow", "inverted_flow", "epsilon", "v_prediction", "inverted_v_prediction", "sample", "unknown"
]  # fmt: skip


class Conversion(NamedTuple):
    """x0 = from_input × network input + from_output × output."""

    from_input: float
    from_output: float


def time_of(sigma: float, kind: str) -> float:
    """The coordinate in which predictions are smooth: sigma itself for flow matching (it runs 1..0), and for
    epsilon and v models, whose sigma runs from tens to hundredths, the flow time of the same noise-to-signal ratio.
    """
    return sigma if "flow" in kind else sigma / (1.0 + sigma)


def conversion(sigma: float, kind: str) -> Conversion:
    """At this noise level (a flow's time, else the noise-to-signal ratio of an input of unit variance)."""
    sign = -1.0 if kind.startswith("inverted") else 1.0
    if "flow" in kind:
        return Conversion(1.0, -sign * sigma)
    root = math.sqrt(1.0 + sigma * sigma)
    if kind == "epsilon":
        return Conversion(root, -sigma)
    return Conversion(1.0 / root, -sign * sigma / root) if "v_prediction" in kind else Conversion(0.0, 1.0)


def clean_from_output(output: torch.Tensor, latents: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """x0 (float32) from the network's input and output."""
    from_input, from_output = conversion(sigma, kind)
    return from_input * latents.float() + from_output * output.float()


def output_from_clean(clean: torch.Tensor, latents: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """The inverse of `clean_from_output`, in the dtype of the latents."""
    from_input, from_output = conversion(max(sigma, 1e-6), kind)
    wide = torch.promote_types(latents.dtype, torch.float32)
    return ((clean.to(wide) - from_input * latents.to(wide)) / from_output).to(latents.dtype)


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
