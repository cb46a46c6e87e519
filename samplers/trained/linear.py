"""LinearAG: the unconditional output as a fitted linear function of outputs that are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from accel.anatomy import Anatomy
from accel.clock import StepContext
from accel.samplers.guidance.policy import (
    ConditionalPass,
    EvaluatedPair,
    GuidanceDecision,
    GuidanceMethod,
    GuidancePolicy,
    Tensors,
    weighted_sum,
)

FEATURES = 3


@dataclass(frozen=True)
class LinearAG(GuidanceMethod):
    """Makes the unconditional output of the steps that have coefficients from past outputs (arXiv 2312.12487, section
    5).

    The paper fits u_i to all c_j and u_j of the past; those are nearly collinear, and what is fitted on true outputs
    and run on estimated ones drifts. Here the difference d = u - c is fitted to three of them, d_i = a d_{i-1} + b
    d_{i-2} + e (c_i - c_{i-1}), each step with the estimates of the steps before it in place.

    sigmas: the noise levels of the run that it was calibrated for; another timetable is left alone, because the
    coefficients depend on the distances. rows: (a, b, e) for each step of it, () for those that evaluate the pass.
    `calibrate_linear(pipe, prompts)` makes one. It belongs to the model, scheduler, step count and guidance scale of
    its calibration. No host sync in two-call pipelines. Memory: three latents. Not for anything else: `GuidanceDelta`
    needs no calibration.
    """

    sigmas: tuple[float, ...] = ()
    rows: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        numbers = [*self.sigmas, *(value for row in self.rows for value in row)]
        sound = all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers)
        if not self.rows or len(self.sigmas) < len(self.rows) or not sound:
            raise ValueError(
                "LinearAG wants the noise levels and the coefficients of a calibration: "
                "accel.samplers.calibrate_linear(pipe, prompts) makes one."
            )
        if any(len(row) not in (0, FEATURES) for row in self.rows):
            raise ValueError(f"LinearAG.rows must have {FEATURES} numbers for each step, or none.")

    def __str__(self) -> str:
        return f"LinearAG({sum(not row for row in self.rows)} of {len(self.rows)} steps evaluated)"

    def fits(self, sigmas: tuple[float, ...]) -> bool:
        """Whether a run with these noise levels is one that this was calibrated for."""
        return len(sigmas) >= len(self.rows) and all(
            math.isclose(mine, other, rel_tol=1e-3, abs_tol=1e-4)
            for mine, other in zip(self.sigmas, sigmas, strict=False)
        )

    def policy(self, anatomy: Anatomy) -> GuidancePolicy:
        return _Linear(self)


@dataclass
class LinearHistory:
    """What the next difference is made from: the last two differences and the last conditional outputs."""

    deltas: list[Tensors] = field(default_factory=list)
    conditional: Tensors = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.deltas) == 2

    def features(self, now: ConditionalPass) -> list[Tensors]:
        """For each output the three regressors, float32."""
        last, before = self.deltas[-1], self.deltas[-2]
        return [
            [one, two, c.float() - known]
            for one, two, c, known in zip(last, before, now.outputs, self.conditional, strict=True)
        ]

    def add(self, now: ConditionalPass, deltas: Tensors) -> None:
        self.deltas = [*self.deltas, deltas][-2:]
        self.conditional = [c.float().clone() for c in now.outputs]

    def kept_tensors(self) -> Tensors:
        return [*(tensor for deltas in self.deltas for tensor in deltas), *self.conditional]


@dataclass
class _Linear(GuidancePolicy):
    method: LinearAG
    past: LinearHistory = field(default_factory=LinearHistory)
    resumes = True

    def decide(self, context: StepContext, computed: bool) -> GuidanceDecision:
        rows = self.method.rows
        if not self.method.fits(context.sigmas):
            return GuidanceDecision(False, "calibrated for other noise levels")
        if not self.past.complete:
            return GuidanceDecision(False, "no history yet")
        made = context.position < len(rows) and bool(rows[context.position])
        return GuidanceDecision(made, "made from past answers" if made else "evaluated by the calibration")

    def substitute_output(self, now: ConditionalPass) -> Tensors:
        deltas = [weighted_sum(self.method.rows[now.context.position], parts) for parts in self.past.features(now)]
        self.past.add(now, deltas)
        return add(now.outputs, deltas)

    def observe_both(
        self, now: ConditionalPass, unconditional: Tensors, evaluated: EvaluatedPair | None
    ) -> Tensors | None:
        self.past.add(now, differences(*evaluated or (now.outputs, unconditional)))
        return None

    def kept_tensors(self) -> Tensors:
        return self.past.kept_tensors()


def differences(conditional: Tensors, unconditional: Tensors) -> Tensors:
    return [u.float() - c.float() for c, u in zip(conditional, unconditional, strict=True)]


def add(conditional: Tensors, deltas: Tensors) -> Tensors:
    return [(c.float() + delta).to(c.dtype) for c, delta in zip(conditional, deltas, strict=True)]
