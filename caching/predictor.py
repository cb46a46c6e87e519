"""What stands in for a denoiser's answer at a skipped step.

In a diffusion run the prediction is a smooth function of the noise level, so two computed answers say where it is
going. On the pocket model, extrapolating the output linearly in sigma is worth 5-10 dB over reusing it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from accel.calls import Call, noise_part
from accel.method import Method, knob


class Predictor(Method, lever="predictor", abstract=True):
    """Base of the predictors: how many computed answers they need to remember, and what they make of them."""

    @property
    def depth(self) -> int:
        """The number of computed answers to remember."""
        return 1

    def remember(self, call: Call, outputs: list[torch.Tensor], kind: str) -> Memory:
        """What to keep of a computed answer."""
        return Memory(time_of(call.moment.sigma, kind), [output.detach().clone() for output in outputs])

    def predict(self, call: Call, history: list[Memory], kind: str) -> list[torch.Tensor]:
        """The answer for this call from at least one memory, oldest first; new tensors of the outputs' dtype."""
        raise NotImplementedError


class Memory(NamedTuple):
    """One computed answer: when (see `time_of`) and the tensors kept of it, one for each output."""

    time: float
    values: list[torch.Tensor]


def time_of(sigma: float, kind: str) -> float:
    """The coordinate in which predictions are smooth: sigma itself for flow matching (it runs 1..0), and for
    epsilon and v models, whose sigma runs from tens to hundredths, the flow time of the same noise-to-signal ratio.
    """
    return sigma if "flow" in kind else sigma / (1.0 + sigma)


@dataclass(frozen=True)
class LastOutput(Predictor, lever="predictor"):
    """Reuses the last computed output. Memory: one output (latent size) per stream."""

    def predict(self, call: Call, history: list[Memory], kind: str) -> list[torch.Tensor]:
        return [value.clone() for value in history[-1].values]


@dataclass(frozen=True)
class LastResidual(Predictor, lever="predictor"):
    """Adds the last computed (output - input) to the present input: EasyCache's and TeaCache's predictor, taken at the
    denoiser's boundary. Memory: one output per stream.

    Meant for flow matching, where the input has unit scale. Outputs that have no counterpart in the input (learned
    variances, second outputs) are reused as they are.
    """

    def remember(self, call: Call, outputs: list[torch.Tensor], kind: str) -> Memory:
        bases = _bases(call, outputs)
        values = [
            output.detach().clone() if base is None else (output - base).detach()
            for output, base in zip(outputs, bases, strict=True)
        ]
        return Memory(time_of(call.moment.sigma, kind), values)

    def predict(self, call: Call, history: list[Memory], kind: str) -> list[torch.Tensor]:
        residuals = history[-1].values
        bases = _bases(call, residuals)
        return [
            residual.clone() if base is None else base + residual
            for residual, base in zip(residuals, bases, strict=True)
        ]


@dataclass(frozen=True)
class Extrapolate(Predictor, lever="predictor"):
    """Extrapolates the output (or the clean estimate x0 that it implies) in noise level.

    Newton's form through the last order + 1 computed answers, exact for polynomials of that degree whatever the spacing
    (TaylorSeer's recursion is so only for order 1). The second-order term is noise amplified by the square of the
    distance, and undamped it blows up at high guidance: it is scaled down, sample by sample, to at most `limit` times
    the first-order term, which keeps it where the series converges and tames it where it does not. `space="x0"`
    extrapolates x0 and converts back; it needs an input of the output's shape and falls back to the output where there
    is none. "auto" takes the output for flow matching and x0 for the others: for an exactly known score (Gaussian
    mixture, DDIM, 50 steps, every third computed, order 1) that is 54 dB where extrapolating epsilon is 43, reusing it
    33 and taking as many steps as evaluations 25 (tests/caching/test_exact_score.py).
    Memory: order + 1 outputs (latent size) per stream.
    """

    order: int = knob(2, 0, 2, "degree of the polynomial in noise level; 0 reuses")
    limit: float = knob(0.4, 0.0, None, "second-order term over first-order term, at most")
    space: str = knob("auto", choices=("auto", "output", "x0"), help="what is extrapolated")

    @property
    def depth(self) -> int:
        return self.order + 1

    def remember(self, call: Call, outputs: list[torch.Tensor], kind: str) -> Memory:
        values = [output.detach().clone() for output in outputs]
        if self._clean(kind):
            values = [
                value if base is None else clean_from_output(value, base, call.moment.sigma, kind)
                for value, base in zip(values, _bases(call, values), strict=True)
            ]
        return Memory(time_of(call.moment.sigma, kind), values)

    def predict(self, call: Call, history: list[Memory], kind: str) -> list[torch.Tensor]:
        recent = history[-self.depth :]
        weights = extrapolation_weights([memory.time for memory in recent], time_of(call.moment.sigma, kind))
        answers = zip(*(memory.values for memory in recent), strict=True)
        values = [_extrapolated(answer, *weights, self.limit) for answer in answers]
        if self._clean(kind):
            values = [
                value if base is None else output_from_clean(value, base, call.moment.sigma, kind)
                for value, base in zip(values, _bases(call, values), strict=True)
            ]
        return values

    def _clean(self, kind: str) -> bool:
        return self.space == "x0" or (self.space == "auto" and "flow" not in kind)


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


def _extrapolated(
    values: tuple[torch.Tensor, ...], line: list[float], parabola: list[float], limit: float
) -> torch.Tensor:
    """The values continued, with the second-order term limited for each sample; no host sync."""
    straight = _weighted(values, line)
    if any(parabola):
        bend = _weighted(values, parabola)
        axes = tuple(range(1, bend.ndim))
        slope = torch.linalg.vector_norm(straight - values[-1].float(), dim=axes, keepdim=True)
        share = limit * slope / torch.linalg.vector_norm(bend, dim=axes, keepdim=True).clamp_min(1e-30)
        straight = straight + bend * share.clamp_max(1.0)
    return straight.to(values[-1].dtype)


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


def _weighted(values: tuple[torch.Tensor, ...], weights: list[float]) -> torch.Tensor:
    # In float32: the weights are large and of opposite sign, and half precision would lose the difference.
    return torch.stack([weight * value.float() for weight, value in zip(weights, values, strict=True) if weight]).sum(0)


def _bases(call: Call, outputs: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """For each output the part of the input that it is a prediction about, or None."""
    padded: list[torch.Tensor | None] = [*call.latents, *[None] * len(outputs)]
    return [None if base is None else noise_part(base, output) for base, output in zip(padded, outputs, strict=False)]
