"""Where predictions are smooth: the coordinate of a noise level, and the clean estimate that an output implies."""

from __future__ import annotations

import math

import torch

from accel.clock import Moment


def time_of(sigma: float, kind: str) -> float:
    """The coordinate in which predictions are smooth: sigma itself for flow matching (it runs 1..0), and for
    epsilon and v models, whose sigma runs from tens to hundredths, the flow time of the same noise-to-signal ratio.
    """
    return sigma if "flow" in kind else sigma / (1.0 + sigma)


def step_weight(moment: Moment, kind: str, clean: bool) -> float:
    """What one unit of the output (or of the clean estimate) adds in this step's Euler update, in coordinates in which
    the updates of all steps simply add up.

    With x divided by the scale of the signal, an Euler step is x + (next sigma - sigma) y where y is the flow or the
    noise, and in terms of the clean estimate it is x / sigma + (1 / next sigma - 1 / sigma) x0. Inverted flows have the
    other sign, which is left out, because only ratios of weights are used. 0 where there are no such coordinates (v)
    and where nothing of the past remains (x0 at the end, where sigma is 0).
    """
    sigma, following = max(moment.sigma, 1e-6), moment.next_sigma
    if clean or kind == "sample":
        return 1.0 / following - 1.0 / sigma if following > 0.0 else 0.0
    return 0.0 if kind == "v_prediction" else following - sigma


def clean_from_output(output: torch.Tensor, latents: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """x0 from the network's input and output. flow: x - sigma v; epsilon, v_prediction: with a = 1/sqrt(1 + sigma^2),
    b = sigma a (the network's input has unit variance): (x - b eps)/a and a x - b v; sample: the output itself.
    """
    x, y = latents.float(), output.float()
    signal = 1.0 / math.sqrt(1.0 + sigma * sigma)
    noise = sigma * signal
    if "flow" in kind:
        return x - sigma * y if kind == "flow" else x + sigma * y
    if kind == "epsilon":
        return (x - noise * y) / signal
    return signal * x - noise * y if kind == "v_prediction" else y


def output_from_clean(clean: torch.Tensor, latents: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """The inverse of `clean_from_output`, in the dtype of the latents."""
    x, sigma = latents.float(), max(sigma, 1e-6)
    signal = 1.0 / math.sqrt(1.0 + sigma * sigma)
    noise = sigma * signal
    if "flow" in kind:
        output = (x - clean) / sigma if kind == "flow" else (clean - x) / sigma
    elif kind == "epsilon":
        output = (x - signal * clean) / noise
    else:
        output = (signal * x - clean) / noise if kind == "v_prediction" else clean
    return output.to(latents.dtype)
