"""What stands in for a denoiser's answer at a skipped step, and the two simplest stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from accel.anatomy import Anatomy
from accel.calls import Call, noise_part
from accel.method import Method
from accel.update import Updates

Steps = Sequence[tuple[float, float]]  # times and weights


class Memory(NamedTuple):
    """An answer, computed or forecast, in the predictor's own terms.

    time: see `Moment.time`; values: one tensor for each output of the denoiser.
    """

    time: float
    values: list[torch.Tensor]


class Predictor(Method, lever="predictor", abstract=True):
    """Base of the predictors: how many computed answers they need to remember, and what they make of them."""

    @property
    def depth(self) -> int:
        """The number of computed answers to remember."""
        return 1

    @property
    def degrees(self) -> tuple[int, int]:
        """The degrees of the forecasting and of the correcting polynomial, by which a schedule is planned; 0 is reuse,
        and no correction.
        """
        return 0, 0

    @property
    def corrects(self) -> bool:
        """Whether the first computed step after forecasts makes up for their errors."""
        return False

    def uncorrected(self) -> Predictor:
        """The same without making up for errors."""
        return self

    def under(self, updates: Callable[[str], Updates], kind: str) -> tuple[Predictor, Updates | None, str]:
        """The same for a run, the updates by which it makes up for its errors, if any, and why it does not where it
        would. updates: asks for them, by what they are made of ("output" or "x0"), see `accel.calls.Call`.
        """
        return self, None, ""

    def expected(self, anatomy: Anatomy) -> Predictor:
        """The same as it will be under the pipeline's schedulers, as far as that is known before a run."""
        return self

    def clean(self, kind: str) -> bool:
        """Whether the values are clean estimates."""
        return False

    def remember(self, call: Call, outputs: list[torch.Tensor], kind: str) -> Memory:
        """What to keep of a computed answer."""
        return at(call, [output.detach().clone() for output in outputs], kind)

    def forecast(self, call: Call, history: list[Memory], kind: str) -> Memory:
        """What would be kept of this call's answer, from at least one memory, oldest first; new tensors."""
        raise NotImplementedError

    def answer(self, call: Call, values: list[torch.Tensor], kind: str) -> list[torch.Tensor]:
        """The denoiser's outputs that these values stand for."""
        return values

    def predict(self, call: Call, history: list[Memory], kind: str) -> list[torch.Tensor]:
        """The outputs for this call, forecast."""
        return self.answer(call, self.forecast(call, history, kind).values, kind)

    def between(self, now: Memory, history: list[Memory], steps: Steps) -> list[torch.Tensor]:
        """The sum of what the forecasts at these times should have been, each times its weight (float32), now that the
        answer after them is known."""
        raise NotImplementedError


@dataclass(frozen=True)
class LastOutput(Predictor, lever="predictor"):
    """Reuses the last computed output. Memory: one output (latent size) per stream."""

    def forecast(self, call: Call, history: list[Memory], kind: str) -> Memory:
        return at(call, [value.clone() for value in history[-1].values], kind)


@dataclass(frozen=True)
class LastResidual(Predictor, lever="predictor"):
    """Adds the last computed (output - input) to the present input: EasyCache's and TeaCache's predictor, taken at the
    denoiser's boundary. Memory: one output per stream.

    Meant for flow matching, where the input has unit scale. Outputs that have no counterpart in the input (learned
    variances, second outputs) are reused as they are.
    """

    def remember(self, call: Call, outputs: list[torch.Tensor], kind: str) -> Memory:
        values = [
            output.detach().clone() if base is None else (output - base).detach()
            for output, base in zip(outputs, bases(call, outputs), strict=True)
        ]
        return at(call, values, kind)

    def forecast(self, call: Call, history: list[Memory], kind: str) -> Memory:
        return at(call, history[-1].values, kind)

    def answer(self, call: Call, values: list[torch.Tensor], kind: str) -> list[torch.Tensor]:
        return [
            residual.clone() if base is None else base + residual
            for residual, base in zip(values, bases(call, values), strict=True)
        ]


def at(call: Call, values: list[torch.Tensor], kind: str) -> Memory:
    """These values at the call's moment."""
    return Memory(call.moment.time, values)


def bases(call: Call, outputs: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """For each output the part of the input that it is a prediction about, or None."""
    padded: list[torch.Tensor | None] = [*call.latents, *[None] * len(outputs)]
    return [None if base is None else noise_part(base, output) for base, output in zip(padded, outputs, strict=False)]
