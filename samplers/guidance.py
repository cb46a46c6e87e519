"""The gate in front of the cache that decides, step by step, whether the unconditional pass is needed.

Every pipeline combines its two answers in its own way (guidance scale, rescaling, normalisation, dynamic scales), and
every one of them gives the conditional answer where both are equal, and sees no difference where the unconditional one
is made from others. So nothing of the pipeline is changed but what it is answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from accel import families
from accel.anatomy import Anatomy
from accel.calls import Call, Outcome, Proceed, rebuilt, tensors
from accel.clock import Moment
from accel.lever import Idle, Lever
from accel.method import Method
from accel.report import CallRecord, LeverReport
from accel.samplers import halves

Tensors = list[torch.Tensor]


class Verdict(NamedTuple):
    """Whether the unconditional pass is left out, and why (or why not)."""

    drop: bool
    reason: str


@dataclass(frozen=True)
class Conditional:
    """What is known when the unconditional answer of a step is due: the conditional one and what it was made from.

    outputs, latents: tensors (B, ...), or one tensor for each sample where `listed`.
    """

    moment: Moment
    latents: Tensors
    outputs: Tensors
    listed: bool = False


class Policy(Protocol):
    """State for one denoiser in one run."""

    def judge(self, moment: Moment, computed: bool) -> Verdict:
        """Is the unconditional pass left out at this step? computed: the conditional one was (or can be) evaluated and
        is not predicted by a cache, so that the unconditional one would be evaluated as well.
        """

    def answer(self, now: Conditional) -> Tensors:
        """What stands for the unconditional outputs where they are left out; tensors of its own."""

    def settle(self, now: Conditional, unconditional: Tensors, computed: bool) -> Tensors | None:
        """Both are known. Other outputs to take the place of the unconditional ones, or None to leave them."""

    def held(self) -> Tensors:
        """The tensors kept, for the memory account."""
        return []


@dataclass(frozen=True)
class GuidanceMethod(Method, lever="guidance", abstract=True):
    """Base of the guidance techniques. They need to know how the pipeline asks for guidance, and nothing else."""

    def policy(self, anatomy: Anatomy) -> Policy:
        """Fresh state for one denoiser in one run."""
        raise NotImplementedError

    def build(self, anatomy: Anatomy) -> Lever:
        if anatomy.guidance_calls == "unknown":
            return Idle(
                self,
                f"accel has not been taught how {anatomy.pipeline} asks for its conditional and unconditional passes, "
                f"so none is left out: use a cache, or add the pipeline to accel/families.py",
            )
        return GuidanceGate(self, anatomy)


@dataclass
class _Asked:
    """The conditional call of a step and its outcome."""

    call: Call
    outcome: Outcome


class GuidanceGate(Lever):
    """Answers unconditional passes where the method says so; what it makes up never reaches the levers below.

    Two calls per step: the unconditional call is answered and goes no further. One batched call: the conditional half
    goes on alone, as a stream of its own, so that a cache never mixes batches of two sizes, and the answer is put
    together again. Anything else (tiles, perturbed passes, batches of three, guidance that is off) passes untouched.
    State is per denoiser and starts anew with every run and shape.
    """

    def __init__(self, method: GuidanceMethod, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._last = anatomy.guidance_calls == "conditional half last"
        self._open()
        self.reset()

    def begin(self, denoisers: Mapping[str, torch.nn.Module]) -> None:
        self._open()

    def _open(self) -> None:
        """Starts the account of a pipeline call."""
        self._seen, self._peak = 0, 0
        self._dropped: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()

    def reset(self) -> None:
        self._policies: dict[str, tuple[object, Policy]] = {}
        self._asked: dict[str, _Asked] = {}
        self._pairs: dict[str, _Pairs] = {}

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        if self.anatomy.guidance_calls == "two calls":
            return self._two_calls(call, proceed)
        return self._batched(call, proceed)

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        dropped = self._dropped.total()
        reason = f"{dropped} of {self._seen} unconditional passes left out"
        if dropped:
            reason += f" ({', '.join(f'{count}: {why}' for why, count in self._dropped.most_common(3))})"
        elif not self._seen and self.anatomy.guidance.startswith("embedded"):
            reason = (
                "the guidance scale is an input of this model and there was no unconditional pass to leave out; "
                "with true_cfg_scale above 1 and a negative prompt there is one"
            )
        elif not self._seen:
            reason = "no unconditional pass was seen: guidance is off at this scale"
        elif self._kept:
            reason += f" ({self._kept.most_common(1)[0][0]})"
        return LeverReport("guidance", str(self.method), dropped > 0, reason, self._peak)

    def _two_calls(self, call: Call, proceed: Proceed) -> Outcome:
        if call.stream in families.CONDITIONAL_CALLS:
            outcome = proceed(call)
            self._asked[call.denoiser] = _Asked(call, outcome)
            return outcome
        asked = self._asked.get(call.denoiser)
        if call.stream not in families.UNCONDITIONAL_CALLS or asked is None or not _same_question(call, asked.call):
            return proceed(call)
        now = Conditional(call.moment, call.latents, tensors(asked.outcome.output), halves.listed(call))
        policy, computed = self._policy(call, call.latents), asked.outcome.action == "computed"
        self._seen += 1
        verdict = policy.judge(call.moment, computed)
        if verdict.drop:
            values = self._account(policy, verdict, policy.answer(now))
            return Outcome(rebuilt(asked.outcome.output, values), "dropped", verdict.reason)
        self._kept[verdict.reason] += 1
        outcome = proceed(call)
        changed = policy.settle(now, tensors(outcome.output), computed and outcome.action == "computed")
        self._account(policy)
        return outcome if changed is None else outcome._replace(output=rebuilt(outcome.output, changed))

    def _batched(self, call: Call, proceed: Proceed) -> Outcome:
        pairs = self._pairs.setdefault(call.denoiser, _Pairs())
        if not pairs.expects(call):
            return proceed(call)
        # Two samples with one seed look like a pair until their prompts have moved them apart.
        if not call.guided and call.moment.step == 0:
            return proceed(call)
        if halves.same_input(call, pairs.outputs):
            verdict = self._policy(call, self._half(call, call.latents)).judge(call.moment, True)
            if verdict.drop:
                return self._conditional_half(call, proceed, verdict)
            self._kept[verdict.reason] += 1
        outcome = proceed(call)
        pairs.outputs = tensors(outcome.output)
        return self._settled(call, outcome) if halves.same_input(call, pairs.outputs) else outcome

    def _conditional_half(self, call: Call, proceed: Proceed, verdict: Verdict) -> Outcome:
        half = halves.half_call(call, self._last)
        outcome = proceed(half)
        now = Conditional(call.moment, half.latents, tensors(outcome.output), halves.listed(call))
        policy = self._policy(call, half.latents)
        self._seen += 1
        values = self._account(policy, verdict, policy.answer(now))
        output = self._whole(call, rebuilt(outcome.output, values), outcome.output)
        return Outcome(output, outcome.action, f"conditional half alone: {verdict.reason}")

    def _settled(self, call: Call, outcome: Outcome) -> Outcome:
        conditional = halves.half_output(call, outcome.output, self._last)
        unconditional = halves.half_output(call, outcome.output, not self._last)
        latents = self._half(call, call.latents)
        now = Conditional(call.moment, latents, tensors(conditional), halves.listed(call))
        policy = self._policy(call, latents)
        self._seen += 1
        changed = policy.settle(now, tensors(unconditional), outcome.action == "computed")
        self._account(policy)
        if changed is None:
            return outcome
        return outcome._replace(output=self._whole(call, rebuilt(unconditional, changed), conditional))

    def _half(self, call: Call, latents: Tensors) -> Tensors:
        """The conditional half of the latents."""
        if halves.listed(call):
            middle = len(latents) // 2
            return latents[middle:] if self._last else latents[:middle]
        return tensors(halves.half_output(call, latents, self._last))

    def _whole(self, call: Call, unconditional: Any, conditional: Any) -> Any:
        first, second = (unconditional, conditional) if self._last else (conditional, unconditional)
        return halves.joined(call, first, second)

    def _policy(self, call: Call, latents: Tensors) -> Policy:
        key = [(tensor.shape, tensor.dtype, tensor.device) for tensor in latents]
        known = self._policies.get(call.denoiser)
        if known is None or known[0] != key:
            known = self._policies[call.denoiser] = key, self.method.policy(self.anatomy)
        return known[1]

    def _account(self, policy: Policy, dropped: Verdict | None = None, values: Tensors | None = None) -> Tensors:
        if dropped is not None:
            self._dropped[dropped.reason] += 1
        held = sum(tensor.numel() * tensor.element_size() for tensor in policy.held())
        self._peak = max(self._peak, held)
        return values or []


class _Pairs:
    """What is known about the batched calls of one denoiser in this run."""

    def __init__(self) -> None:
        self.outputs: Tensors | None = None  # of the last whole batch
        self._prompts: Any = None
        self._differ = False
        self._step, self._shapes, self._several = -1, [torch.Size()], False

    def expects(self, call: Call) -> bool:
        """Whether this may be a pair: the one call of its step, an even batch, with two kinds of prompts."""
        rows, shapes = halves.rows_of(call), [tensor.shape for tensor in call.latents]
        if not call.leader:
            # Tiles would be guided differently, one from another. A third pass has fewer rows and changes nothing.
            self._several |= call.moment.step == self._step and shapes == self._shapes
            return False
        self._step, self._shapes = call.moment.step, shapes
        if self._several or rows < 2 or rows % 2:
            return False
        prompts = halves.prompts(call)
        if prompts is not self._prompts:
            self._prompts, self._differ = prompts, halves.other_prompts(call)
        return self._differ


def _same_question(call: Call, asked: Call) -> bool:
    """Whether both calls of the step are about the same latents. Mostly they are one object; else a host sync."""
    if call.moment.run != asked.moment.run or call.moment.step != asked.moment.step:
        return False
    return len(call.latents) == len(asked.latents) and all(
        mine is other or (mine.shape == other.shape and torch.equal(mine, other))
        for mine, other in zip(call.latents, asked.latents, strict=True)
    )
