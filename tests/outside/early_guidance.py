"""Guidance in the first steps only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.anatomy import Anatomy
from accel.clock import StepContext
from accel.method import setting
from accel.samplers.guidance.policy import (
    ConditionalPass,
    EvaluatedPair,
    GuidanceDecision,
    GuidanceMethod,
    GuidancePolicy,
    Tensors,
)
from accel.samplers.recorded_steps import RecordedStep


@dataclass(frozen=True)
class EarlyGuidance(GuidanceMethod):
    """Guides in the first `share` of the steps."""

    share: float = setting(0.5, 0.0, 1.0, "first share of the steps that is guided", dial=True)

    @classmethod
    def for_tuning(cls) -> Sequence[EarlyGuidance]:
        return (cls(), cls(0.25))

    def guides(self, position: int, total: int) -> bool:
        return position < self.share * total

    def guided_steps(self, steps: Sequence[RecordedStep]) -> list[bool]:
        return [step.computed and self.guides(step.position, step.total) for step in steps]

    def policy(self, anatomy: Anatomy) -> GuidancePolicy:
        return Early(self)


@dataclass
class Early(GuidancePolicy):
    method: EarlyGuidance

    def decide(self, context: StepContext, computed: bool) -> GuidanceDecision:
        inside = self.method.guides(context.position, context.total)
        return GuidanceDecision(not inside, "early" if inside else "late")

    def substitute_output(self, now: ConditionalPass) -> Tensors:
        return [output.clone() for output in now.outputs]

    def observe_both(
        self, now: ConditionalPass, unconditional: Tensors, evaluated: EvaluatedPair | None
    ) -> Tensors | None:
        return None
