"""Guidance in the first steps only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.anatomy import Anatomy
from accel.clock import Moment
from accel.method import knob
from accel.samplers.guidance import Conditional, Evaluated, GuidanceMethod, Policy, Tensors, Verdict
from accel.samplers.recorded_steps import RecordedStep


@dataclass(frozen=True)
class EarlyGuidance(GuidanceMethod):
    """Guides in the first `share` of the steps."""

    share: float = knob(0.5, 0.0, 1.0, "first share of the steps that is guided", dial=True)

    @classmethod
    def for_tuning(cls) -> Sequence[EarlyGuidance]:
        return (cls(), cls(0.25))

    def guides(self, position: int, total: int) -> bool:
        return position < self.share * total

    def guided_steps(self, steps: Sequence[RecordedStep]) -> list[bool]:
        return [step.computed and self.guides(step.position, step.total) for step in steps]

    def policy(self, anatomy: Anatomy) -> Policy:
        return Early(self)


@dataclass
class Early(Policy):
    method: EarlyGuidance

    def judge(self, moment: Moment, computed: bool) -> Verdict:
        inside = self.method.guides(moment.position, moment.total)
        return Verdict(not inside, "early" if inside else "late")

    def answer(self, now: Conditional) -> Tensors:
        return [output.clone() for output in now.outputs]

    def settle(self, now: Conditional, unconditional: Tensors, evaluated: Evaluated | None) -> Tensors | None:
        return None
