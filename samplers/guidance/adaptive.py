"""Adaptive Guidance: no unconditional pass once it agrees with the conditional one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from accel.anatomy import Anatomy
from accel.clock import StepContext
from accel.method import nested_method, setting
from accel.parametrization import clean_from_output
from accel.samplers.guidance.delta import GuidanceDelta
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
class AdaptiveGuidance(GuidanceMethod):
    """Saves the unconditional pass once both passes agree (arXiv 2312.12487).

    threshold: cosine of the conditional and the unconditional estimate of the clean sample. Higher keeps more guidance;
    above 1 keeps all. The paper compares the predictions themselves, which where noise is predicted agree to 0.999 in
    the very first step, so that its threshold of 0.991 would end guidance there; clean estimates start apart in every
    parametrisation and come together as the picture is decided.
    start: no sooner than after this fraction of the steps. patience: so many evaluated steps in a row must agree.
    rest: what replaces the pass in the rest of the run. "conditional" is the paper's rule, no guidance any more; but
    a cosine near 1 still leaves a difference that the guidance scale multiplies, and at the pocket model's scale of 6
    that costs 20 dB where a quarter of the evaluations is saved. "delta" measures the difference now and then and
    carries it over in between, as `delta` says.

    The pass is saved once all samples of a batch agree; with rest="conditional" each sample is treated as it would be
    alone, its own guidance ending when it agrees. Steps that a cache predicts do not count. One host sync per step
    until then; memory that of `delta`. Do not use rest="conditional" at high guidance scales, or where a negative
    prompt is to keep out detail that the last steps decide.
    """

    threshold: float = setting(
        0.95, -1.0, 2.0, "cosine of the clean estimates above which guidance is saved", dial=True
    )
    start: float = setting(0.2, 0.0, 1.0, "fraction of the steps before which it is not")
    patience: int = setting(1, 1, 100, "evaluated steps in a row that must agree")
    rest: str = setting("delta", choices=("delta", "conditional"), help="what replaces the pass after that")
    delta: GuidanceMethod = nested_method(GuidanceDelta(growth=1.2), "guidance")  # noqa: RUF009

    def agrees(self, cosine: float, position: int, total: int) -> bool:
        """Whether one evaluated step counts as agreement."""
        return position >= self.start * total and cosine >= self.threshold

    @classmethod
    def for_tuning(cls) -> Sequence[AdaptiveGuidance]:
        return (cls(delta=GuidanceDelta(1.1)), cls())

    def guided_steps(self, steps: Sequence[RecordedStep]) -> list[bool]:
        agreed = 0
        for index, step in enumerate(steps):
            if step.computed:
                agreed = agreed + 1 if self.agrees(step.cosine, step.position, step.total) else 0
            if agreed >= self.patience:
                rest = steps[index:]  # whose first step is the last that was evaluated anyway
                after = self.delta.guided_steps(rest)[1:] if self.rest == "delta" else [False] * (len(rest) - 1)
                return [*(each.computed for each in steps[: index + 1]), *after]
        return [step.computed for step in steps]

    def policy(self, anatomy: Anatomy) -> GuidancePolicy:
        return _Adaptive(self, anatomy.prediction, self.delta.policy(anatomy) if self.rest == "delta" else None)


@dataclass
class _Adaptive(GuidancePolicy):
    method: AdaptiveGuidance
    kind: str
    then: GuidancePolicy | None
    agreed: list[int] = field(default_factory=list)  # for each sample, evaluated steps in a row

    @property
    def resumes(self) -> bool:  # type: ignore[override]
        return self.then is not None

    def decide(self, context: StepContext, computed: bool) -> GuidanceDecision:
        done = sum(self._done())
        if not done or done < len(self.agreed):
            return GuidanceDecision(
                False, f"{done} of {len(self.agreed)} samples agree" if done else "the passes differ"
            )
        return (
            self.then.decide(context, computed)
            if self.then is not None
            else GuidanceDecision(True, "both passes agree")
        )

    def substitute_output(self, now: ConditionalPass) -> Tensors:
        return self.then.substitute_output(now) if self.then is not None else [output.clone() for output in now.outputs]

    def observe_both(
        self, now: ConditionalPass, unconditional: Tensors, evaluated: EvaluatedPair | None
    ) -> Tensors | None:
        done = self._done()  # what this step's own outputs say counts from the next step on
        if evaluated is not None and not (done and all(done)):
            own = replace(now, outputs=evaluated.conditional)
            self._observe(agreement(own, evaluated.unconditional, self.kind), now.context)
        if self.then is not None:
            return self.then.observe_both(now, unconditional, evaluated)
        return mix(now, unconditional, done) if any(done) else None

    def kept_tensors(self) -> Tensors:
        return self.then.kept_tensors() if self.then is not None else []

    def _observe(self, cosines: list[float], context: StepContext) -> None:
        counts = self.agreed or [0] * len(cosines)
        patience = self.method.patience
        self.agreed = [
            count + 1 if count >= patience or self.method.agrees(cosine, context.position, context.total) else 0
            for count, cosine in zip(counts, cosines, strict=True)
        ]

    def _done(self) -> list[bool]:
        return [count >= self.method.patience for count in self.agreed]


def agreement(now: ConditionalPass, unconditional: Tensors, kind: str) -> list[float]:
    """For each sample the cosine of the two clean estimates, of the first output. One host sync."""
    if now.listed:
        pairs = zip(now.latents, now.outputs, unconditional, strict=True)
        return torch.cat([_cosine(x[None], c[None], u[None], now.context.sigma, kind) for x, c, u in pairs]).tolist()
    return _cosine(now.latents[0], now.outputs[0], unconditional[0], now.context.sigma, kind).tolist()


def mix(now: ConditionalPass, unconditional: Tensors, conditional: list[bool]) -> Tensors:
    """The unconditional outputs with the conditional ones in the samples that are marked."""
    if now.listed:
        parts = zip(now.outputs, unconditional, conditional, strict=True)
        return [c.clone() if marked else u for c, u, marked in parts]
    rows = torch.tensor(conditional, device=now.outputs[0].device)
    return [
        torch.where(rows.view(-1, *[1] * (u.ndim - 1)), c, u) if u.shape[:1] == rows.shape else u
        for c, u in zip(now.outputs, unconditional, strict=True)
    ]


def _cosine(x: torch.Tensor, c: torch.Tensor, u: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """(B, ...) -> (B,). Only what input and outputs have in common is compared: learned variances and appended
    conditioning are not part of the picture.
    """
    for dimension in range(1, min(x.ndim, c.ndim)):
        size = min(x.shape[dimension], c.shape[dimension])
        x, c, u = (tensor.narrow(dimension, 0, size) for tensor in (x, c, u))
    one, other = (clean_from_output(output, x, sigma, kind).flatten(1) for output in (c, u))
    return torch.nn.functional.cosine_similarity(one, other, dim=1)
