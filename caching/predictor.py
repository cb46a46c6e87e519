"""What stands in for a denoiser's output at a skipped step: the interface, and the two simplest predictors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from accel.anatomy import Anatomy
from accel.caching.hindsight import Hindsight
from accel.caching.policy import Policy
from accel.call import DenoiserCall, noise_part
from accel.method import Method
from accel.update import LinearUpdates

Steps = Sequence[tuple[float, float]]  # times and weights


@dataclass(frozen=True, eq=False)
class PastValues:
    """An output, computed or forecast, in the predictor's own terms.

    time: see `StepContext.time`; values: one tensor for each output of the denoiser; way: the share of the timetable
    that lies before it; seen: for each output what a computed one says of the forecast of it, once that was asked;
    position: of its step in the timetable, which tells apart what a solver evaluates twice at one time (Heun).
    """

    time: float
    values: list[torch.Tensor]
    way: float = 0.0
    seen: list[Hindsight] = field(default_factory=list)
    position: int = -1


class Predictor(Method, lever="predictor", abstract=True):
    """Base of the predictors: how many computed outputs to remember, and how to forecast from them.

    kind, wherever it is an argument: what the denoiser predicts (`Anatomy.prediction`, such as "flow" or "epsilon").
    """

    @property
    def depth(self) -> int:
        """The number of computed outputs to remember."""
        return 1

    @property
    def degrees(self) -> tuple[int, int]:
        """The degrees of the forecasting and of the correcting polynomial, by which a schedule is planned; 0 is reuse,
        and no correction.
        """
        return 0, 0

    @property
    def corrects(self) -> bool:
        """Whether the first computed step after forecasts corrects their errors."""
        return False

    def without_correction(self) -> Predictor:
        """The same without correction."""
        return self

    def under(self, updates: Callable[[str], LinearUpdates], kind: str) -> tuple[Predictor, LinearUpdates | None, str]:
        """The same for a run, the updates by which it corrects its errors, if any, and why it does not where it
        would. updates: asks for them, by what they are made of ("output" or "x0"), see `accel.call.DenoiserCall`.
        """
        return self, None, ""

    def expected_under(self, anatomy: Anatomy) -> Predictor:
        """The same as it will be under the pipeline's schedulers, as far as that is known before a run."""
        return self

    def clean(self, kind: str) -> bool:
        """Whether the values are clean estimates."""
        return False

    def remember(self, call: DenoiserCall, outputs: list[torch.Tensor], kind: str) -> PastValues:
        """What to keep of a computed output."""
        return at(call, [output.detach().clone() for output in outputs], kind)

    def forecast(self, call: DenoiserCall, history: list[PastValues], kind: str) -> PastValues:
        """What would be kept of this call's output, from at least one memory, oldest first; new tensors."""
        raise NotImplementedError

    def foreseen(self, call: DenoiserCall, history: list[PastValues], now: PastValues, kind: str) -> list[torch.Tensor]:
        """What `forecast` would have made of this call, whose output `now` is known: a predictor may note in it what
        that says of the next forecasts.
        """
        return self.forecast(call, history, kind).values

    def to_outputs(self, call: DenoiserCall, values: list[torch.Tensor], kind: str) -> list[torch.Tensor]:
        """The denoiser's outputs that these values stand for."""
        return values

    def handed_on(self, now: PastValues, history: list[PastValues]) -> list[torch.Tensor] | None:
        """What to hand on in place of a computed output, given those before; None: the output itself."""
        return None

    def planned(self, policy: Policy) -> Policy:
        """The policy of a stream, given the method's: a predictor that was fitted to a plan brings it along."""
        return policy

    def predict(self, call: DenoiserCall, history: list[PastValues], kind: str) -> list[torch.Tensor]:
        """The outputs for this call, forecast."""
        return self.to_outputs(call, self.forecast(call, history, kind).values, kind)

    def between(self, now: PastValues, history: list[PastValues], steps: Steps) -> list[torch.Tensor]:
        """The sum of what the forecasts at these times should have been, each times its weight (float32), now that the
        output after them is known."""
        raise NotImplementedError


@dataclass(frozen=True)
class LastOutput(Predictor, lever="predictor"):
    """Reuses the last computed output: o' = o. Memory: one output (latent size) per stream.

    Source: the reuse of diffusers' and most published caches (TeaCache, arXiv 2411.19108). Not for long gaps:
    `Extrapolate` continues the outputs, and corrects what it got wrong.
    """

    def forecast(self, call: DenoiserCall, history: list[PastValues], kind: str) -> PastValues:
        return at(call, [value.clone() for value in history[-1].values], kind)


@dataclass(frozen=True)
class LastResidual(Predictor, lever="predictor"):
    """Adds the last computed (output - input) to the present input: o' = x' + (o - x). Memory: one output per stream.

    Source: EasyCache (arXiv 2507.02860) and TeaCache (arXiv 2411.19108), here at the denoiser's boundary.
    Meant for flow matching, where the input has unit scale. Not for models whose input has another scale than their
    output. Outputs that have no counterpart in the input (learned
    variances, second outputs) are reused as they are.
    """

    def remember(self, call: DenoiserCall, outputs: list[torch.Tensor], kind: str) -> PastValues:
        values = [
            output.detach().clone() if base is None else (output - base).detach()
            for output, base in zip(outputs, bases(call, outputs), strict=True)
        ]
        return at(call, values, kind)

    def forecast(self, call: DenoiserCall, history: list[PastValues], kind: str) -> PastValues:
        return at(call, history[-1].values, kind)

    def to_outputs(self, call: DenoiserCall, values: list[torch.Tensor], kind: str) -> list[torch.Tensor]:
        return [
            residual.clone() if base is None else base + residual
            for residual, base in zip(values, bases(call, values), strict=True)
        ]


def at(call: DenoiserCall, values: list[torch.Tensor], kind: str) -> PastValues:
    """These values at the call's time."""
    context = call.context
    return PastValues(context.time, values, context.position / max(context.total, 1), position=context.position)


def bases(call: DenoiserCall, outputs: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """For each output the part of the input that it is a prediction about, or None."""
    padded: list[torch.Tensor | None] = [*call.latents, *[None] * len(outputs)]
    return [None if base is None else noise_part(base, output) for base, output in zip(padded, outputs, strict=False)]
