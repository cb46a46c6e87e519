"""What a guidance technique is: the policy that leaves the unconditional pass out, and what stands in for it then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from accel.anatomy import Anatomy
from accel.clock import StepContext
from accel.lever import InactiveLever, Lever
from accel.method import Method
from accel.samplers.recorded_steps import RecordedStep

Tensors = list[torch.Tensor]


class GuidanceDecision(NamedTuple):
    """Whether the unconditional pass is left out, and why (or why not)."""

    drop: bool
    reason: str


@dataclass(frozen=True)
class ConditionalPass:
    """What is known when the unconditional output of a step is due: the conditional one and what it was made from.

    outputs, latents: tensors (B, ...), or one tensor for each sample where `listed`. The outputs are those that the
    pipeline gets, which a cache may have predicted, or have evaluated and corrected.
    """

    context: StepContext
    latents: Tensors
    outputs: Tensors
    listed: bool = False
    weight: float = 0.0  # see `DenoiserCall.weight`


class EvaluatedPair(NamedTuple):
    """The denoiser's own two outputs in a step, where no cache predicted either."""

    conditional: Tensors
    unconditional: Tensors


class GuidancePolicy(Protocol):
    """State for one denoiser in one run.

    resumes: the unconditional pass comes and goes, and is made from the conditional one in between. Only what a policy
    is told by `observe_both` may change what it says: `decide` is asked as often as needed.
    """

    resumes: bool = False

    def decide(self, context: StepContext, computed: bool) -> GuidanceDecision:
        """Is the unconditional pass left out at this step? computed: the conditional output was evaluated and not
        predicted by a cache, so that the unconditional one would be evaluated as well.
        """

    def substitute_output(self, now: ConditionalPass) -> Tensors:
        """The outputs used where the unconditional pass is left out; new tensors."""

    def observe_both(
        self, now: ConditionalPass, unconditional: Tensors, evaluated: EvaluatedPair | None
    ) -> Tensors | None:
        """The pass was not left out. Other outputs to take the place of these, or None to leave them.

        evaluated: both outputs as the denoiser gave them, for measurements; None where a cache predicted one.
        """

    def kept_tensors(self) -> Tensors:
        """The tensors kept, for the memory account."""
        return []


@dataclass(frozen=True)
class GuidanceMethod(Method, lever="guidance", abstract=True):
    """Base of the guidance techniques. All they need to know is which of the pipeline's calls is which."""

    def policy(self, anatomy: Anatomy) -> GuidancePolicy:
        """Fresh state for one denoiser in one run."""
        raise NotImplementedError

    def guided_steps(self, steps: Sequence[RecordedStep]) -> list[bool]:
        """Which steps of a recorded run would have both passes. By default all that compute."""
        return [step.computed for step in steps]

    def build(self, anatomy: Anatomy) -> Lever:
        from accel.samplers.guidance.gate import GuidanceGate  # which knows its method

        if anatomy.guidance_calls == "more than two":
            return InactiveLever(
                self, f"{anatomy.pipeline} combines several calls in each step, so none is left out: take a cache."
            )
        return GuidanceGate(self, anatomy)


def weighted_sum(weights: Any, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of tensors of one shape, each times its number in `weights`."""
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)
