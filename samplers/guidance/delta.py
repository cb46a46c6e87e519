"""The difference of the two passes, measured at some steps and carried over those in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from accel.anatomy import Anatomy
from accel.clock import StepContext
from accel.method import setting
from accel.parametrization import distinct, interpolation_weights, lagrange
from accel.samplers.guidance.policy import (
    ConditionalPass,
    EvaluatedPair,
    GuidanceDecision,
    GuidanceMethod,
    GuidancePolicy,
    Tensors,
    weighted_sum,
)
from accel.samplers.recorded_steps import RecordedStep


@dataclass(frozen=True)
class GuidanceDelta(GuidanceMethod):
    """Evaluates the unconditional pass at some steps and makes it from the conditional one in between: u = c + d, with
    the difference d carried over from the steps that had both.

    growth: d is measured anew once the share of signal in the latents, 1 - sigma in flow time, has grown by this
    factor since the last time. Early in a run, where the picture is laid out, that is every step or two, and late it
    is every tenth, whatever the step count and the shift; on the pocket model it is worth 8 dB over a fixed interval
    with as many evaluations. 1 measures at every step. every: at the latest after so many steps; with growth=inf this
    is FasterCache's fixed interval (arXiv 2410.19355, section 3.3; every=5). start: this first fraction of the steps
    has both passes.
    order: 0 holds d, 1 continues it along a straight line in noise level, 2 along a parabola; damping: the share of
    that change that is believed. Holding is best where the correction is on.
    corrector: where d is measured again, the polynomial of this degree through the last measured ones says what was
    wrong with it in between, and the output of this step makes up for that, weighted as the scheduler weighted those
    steps. Costs no evaluation. It needs a scheduler whose step is linear in the last output alone and a guidance scale
    that stays as it is, and is off for other schedulers; 0: off.
    low, high: factors on the low and high spatial frequencies of d for each step that it is carried, before and after
    `turn` (a fraction of the run): FasterCache has low=1.1 before and high=1.1 after turn=0.9, which costs fidelity to
    the unaccelerated output. They need latents of the layout (..., height, width); rows of tokens keep d whole.

    Saves up to half of all evaluations, and the guidance and the negative prompt have their effect to the end. Where a
    cache is behind it, the pass is evaluated only where the conditional one is, so no forecast is ever measured.
    Decided without a look at the latents; no host sync in two-call pipelines. Memory: max(order, corrector) + 1
    differences of latent size (float32), one more with the corrector. Do not use it for runs of a few steps.
    """

    growth: float = setting(
        1.6, 1.0, None, "measure again when the share of signal has grown by this factor", dial=True
    )
    every: int = setting(15, 1, 1000, "measure again at the latest after so many steps")
    start: float = setting(0.0, 0.0, 1.0, "first fraction of the steps that has both passes")
    order: int = setting(0, 0, 2, "degree of the polynomial that continues the difference; 0 holds it")
    damping: float = setting(1.0, 0.0, 1.0, "share of the continued change that is used")
    corrector: int = setting(1, 0, 3, "degree of the correcting polynomial; 0 does not correct")
    low: float = setting(1.0, 0.0, 10.0, "factor on low frequencies for each carried step before `turn`")
    high: float = setting(1.0, 0.0, 10.0, "factor on high frequencies for each carried step after `turn`")
    turn: float = setting(0.9, 0.0, 1.0, "fraction of the run from which high counts and not low")

    def measures(self, signal: float, measured: float, since: int, position: int, total: int) -> bool:
        """Whether a step has both passes: `signal` is its share of signal, `measured` that of the last step
        that had both, `since` steps ago.
        """
        return position < self.start * total or since >= self.every or signal >= self.growth * measured

    @classmethod
    def for_tuning(cls) -> Sequence[GuidanceDelta]:
        return (cls(1.3), cls())

    def guided_steps(self, steps: Sequence[RecordedStep]) -> list[bool]:
        found: list[bool] = []
        measured, since = None, 0
        for step in steps:
            since += 1
            due = measured is None or self.measures(1.0 - step.time, measured, since, step.position, step.total)
            found.append(step.computed and due)
            if found[-1]:
                measured, since = 1.0 - step.time, 0
        return found

    def policy(self, anatomy: Anatomy) -> GuidancePolicy:
        return _Delta(self, self.corrector)


@dataclass
class _Known:
    """A measured difference: when, and one tensor for each output, in float32."""

    time: float
    values: Tensors


@dataclass
class _Delta(GuidancePolicy):
    method: GuidanceDelta
    corrector: int
    history: list[_Known] = field(default_factory=list)
    measured: int = -1  # step that was evaluated last
    since: int = 0  # steps since then
    gap: list[tuple[float, float]] = field(default_factory=list)  # time and weight of the carried steps
    total: Tensors = field(default_factory=list)  # the weighted sum of what they carried
    resumes = True

    def decide(self, context: StepContext, computed: bool) -> GuidanceDecision:
        self.since = context.step - self.measured
        if not self.history:
            return GuidanceDecision(False, "no difference yet")
        measured, now = (1.0 - time for time in (self.history[-1].time, context.time))
        due = self.method.measures(now, measured, self.since, context.position, context.total)
        return (
            GuidanceDecision(False, "difference measured")
            if due and computed
            else GuidanceDecision(True, "difference carried over")
        )

    def substitute_output(self, now: ConditionalPass) -> Tensors:
        time, weight = now.context.time, now.weight
        deltas = [self._weighted(now, delta) for delta in self._forecast(time)]
        if self.corrector and weight:
            self.gap.append((time, weight))
            parts = [weight * delta for delta in deltas]
            self.total = [a + b for a, b in zip(self.total, parts, strict=True)] if self.total else parts
        return [(c.float() + delta).to(c.dtype) for c, delta in zip(now.outputs, deltas, strict=True)]

    def observe_both(
        self, now: ConditionalPass, unconditional: Tensors, evaluated: EvaluatedPair | None
    ) -> Tensors | None:
        if evaluated is None:  # a cache's forecast is no measurement
            return None
        known = [u.float() - c.float() for c, u in zip(*evaluated, strict=True)]
        self.measured = now.context.step
        depth = max(self.method.order, self.corrector) + 1
        self.history = [*self.history, _Known(now.context.time, known)][-depth:]
        gap, total, self.gap, self.total = self.gap, self.total, [], []
        return self._corrected(unconditional, gap, total, now.weight) if gap and now.weight else None

    def kept_tensors(self) -> Tensors:
        return [*(value for known in self.history for value in known.values), *self.total]

    def _forecast(self, time: float) -> Tensors:
        nodes = distinct(self.history)[-self.method.order - 1 :]
        weights = lagrange([node.time for node in nodes], time)
        last, share = len(nodes) - 1, self.method.damping
        weights = [share * weight + (1.0 - share) * (index == last) for index, weight in enumerate(weights)]
        return [weighted_sum(weights, values) for values in zip(*(node.values for node in nodes), strict=True)]

    def _corrected(self, outputs: Tensors, gap: list[tuple[float, float]], total: Tensors, weight: float) -> Tensors:
        """The outputs of this step, moved by what the carried differences were wrong by."""
        nodes = distinct(self.history)[-self.corrector - 1 :]
        shares = interpolation_weights([node.time for node in nodes], gap)
        better = (weighted_sum(shares, values) for values in zip(*(node.values for node in nodes), strict=True))
        return [
            (output.float() + (right - used) / weight).to(output.dtype)
            for output, right, used in zip(outputs, better, total, strict=True)
        ]

    def _weighted(self, now: ConditionalPass, delta: torch.Tensor) -> torch.Tensor:
        late = now.context.position >= self.method.turn * now.context.total
        low, high = (1.0, self.method.high) if late else (self.method.low, 1.0)
        if (low, high) == (1.0, 1.0) or delta.ndim < 4:
            return delta
        return split_frequencies(delta, low**self.since, high**self.since)


def split_frequencies(delta: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Low and high spatial frequencies, each with its factor: FasterCache section 3.3, (..., H, W) -> the same.

    Low is a disc of radius min(H, W) // 5 around the mean in the two-dimensional spectrum.
    """
    height, width = delta.shape[-2:]
    rows = torch.fft.fftfreq(height, 1.0 / height, device=delta.device)
    columns = torch.fft.fftfreq(width, 1.0 / width, device=delta.device)
    inside = rows[:, None] ** 2 + columns[None, :] ** 2 <= (min(height, width) // 5) ** 2
    factor = torch.where(inside, low, high)
    weighted: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(delta.float()) * factor).real
    return weighted.to(delta.dtype)
