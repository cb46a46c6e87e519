"""Guidance in a limited interval of noise levels."""

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
class GuidanceInterval(GuidanceMethod):
    """Guides only where low < noise level <= high, and leaves the unconditional pass out elsewhere (arXiv 2404.07724,
    section 3; with low alone it is the static cut-off of arXiv 2506.08351).

    unit: "sigma" is the scheduler's own noise level (1..0 for flow matching, noise-to-signal ratio otherwise: the paper
    has 0.28 and 5.42 for SDXL), which means the same at every step count; "fraction" is what is left of the run, 1 at
    its first step and towards 0 at its last: low=0.4 guides the first 60 percent of the steps.

    Where both passes are one batch, the first step has both: which is which is seen from what becomes of them.
    It is decided beforehand: no measurement, no host sync in two-call pipelines, no memory. A cut at the end changes
    little, as in AdaptiveGuidance. A cut at the beginning (high) changes the picture as a whole; the paper does that
    for quality and diversity, together with a larger guidance scale. Do not use it where the picture should stay the
    same.
    """

    low: float = setting(0.4, 0.0, None, "no guidance at this noise level and below", dial=True)
    high: float = setting(float("inf"), 0.0, None, "no guidance above this noise level")
    unit: str = setting("fraction", choices=("sigma", "fraction"), help="what low and high count")

    def guides(self, sigma: float, position: int, total: int) -> bool:
        """Whether a step of this noise level is guided."""
        level = sigma if self.unit == "sigma" else 1.0 - position / max(total, 1)
        return self.low < level <= self.high

    def guided_steps(self, steps: Sequence[RecordedStep]) -> list[bool]:
        return [step.computed and self.guides(step.sigma, step.position, step.total) for step in steps]

    def policy(self, anatomy: Anatomy) -> GuidancePolicy:
        return _Interval(self)


@dataclass
class _Interval(GuidancePolicy):
    method: GuidanceInterval

    def decide(self, context: StepContext, computed: bool) -> GuidanceDecision:
        inside = self.method.guides(context.sigma, context.position, context.total)
        return GuidanceDecision(not inside, "inside the interval" if inside else "outside the interval")

    def substitute_output(self, now: ConditionalPass) -> Tensors:
        return [output.clone() for output in now.outputs]

    def observe_both(
        self, now: ConditionalPass, unconditional: Tensors, evaluated: EvaluatedPair | None
    ) -> Tensors | None:
        return None
