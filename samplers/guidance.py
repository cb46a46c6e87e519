"""The gate in front of the cache that decides, step by step, whether the unconditional pass is needed.

Every pipeline combines its two answers in its own way (guidance scale, rescaling, normalisation, dynamic scales), and
every one of them gives the conditional answer where both are equal, and sees no difference where the unconditional one
is made from others. So nothing of the pipeline is changed but what it is answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

    outputs, latents: tensors (B, ...), or one tensor for each sample where `listed`. The outputs are those that the
    pipeline gets, which a cache may have predicted, or have evaluated and corrected.
    """

    moment: Moment
    latents: Tensors
    outputs: Tensors
    listed: bool = False
    weight: float = 0.0  # see `Call.weight`


class Evaluated(NamedTuple):
    """What the denoiser itself answered in a step, where no cache predicted either of the two."""

    conditional: Tensors
    unconditional: Tensors


class Policy(Protocol):
    """State for one denoiser in one run.

    resumes: the unconditional pass comes and goes, and is made from the conditional one in between.
    """

    resumes: bool = False

    def judge(self, moment: Moment, computed: bool) -> Verdict:
        """Is the unconditional pass left out at this step? Asked once per step. computed: the conditional answer was
        evaluated and not predicted by a cache, so that the unconditional one would be evaluated as well.
        """

    def answer(self, now: Conditional) -> Tensors:
        """What stands for the unconditional outputs where they are left out; tensors of its own."""

    def settle(self, now: Conditional, unconditional: Tensors, evaluated: Evaluated | None) -> Tensors | None:
        """The pass was not left out. Other outputs to take the place of these, or None to leave them.

        evaluated: both answers as the denoiser gave them, for measurements; None where a cache predicted one.
        """

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


@dataclass
class _Course:
    """How one denoiser stands in this run."""

    key: object
    policy: Policy
    halved: bool = False  # the halves of the batch have become calls of their own
    away: bool = False  # unconditional answers were made up since the last time that both were evaluated


class GuidanceGate(Lever):
    """Answers unconditional passes where the method says so; what it makes up never reaches the levers below.

    Two calls per step: the unconditional call is answered and goes no further. One batched call: the conditional half
    goes on alone, as a stream of its own, so that a cache never mixes batches of two sizes, and the answer is put
    together again; once that has begun, a pass that comes and goes is asked for as a second half call, so that each
    half has one unbroken history in the cache. Anything else (tiles, perturbed passes, batches of three, guidance that
    is off) passes untouched.
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
        self._courses: dict[str, _Course] = {}
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
        return self._unconditional(self._course(call, call.latents), asked, call, proceed)

    def _batched(self, call: Call, proceed: Proceed) -> Outcome:
        pairs = self._pairs.setdefault(call.denoiser, _Pairs())
        # Two samples with one seed look like a pair until their prompts have moved them apart.
        if not pairs.expects(call) or (not call.guided and call.moment.step == 0):
            return proceed(call)
        if not halves.same_input(call, pairs.outputs):
            outcome = proceed(call)
            pairs.outputs = tensors(outcome.output)
            return self._whole(call, outcome) if halves.same_input(call, pairs.outputs) else outcome
        course = self._course(call, self._half(call, call.latents))
        if course.halved and course.policy.resumes:
            return self._halves(call, proceed, course, None)
        verdict = course.policy.judge(call.moment, True)
        if verdict.drop:
            return self._halves(call, proceed, course, verdict)
        self._kept[verdict.reason] += 1
        outcome = proceed(call)
        pairs.outputs = tensors(outcome.output)
        return self._whole(call, outcome)

    def _halves(self, call: Call, proceed: Proceed, course: _Course, verdict: Verdict | None) -> Outcome:
        """The conditional half alone, then whatever answers for the other; `verdict` where it is known already."""
        course.halved = True
        half = halves.half_call(call, self._last)
        asked = _Asked(half, proceed(half))
        other = replace(halves.half_call(call, not self._last), leader=False)
        outcome = self._unconditional(course, asked, other, proceed, verdict)
        reason = f"in halves: {outcome.reason}" if outcome.action == "computed" else f"half the batch: {outcome.reason}"
        return Outcome(self._joined(call, outcome.output, asked.outcome.output), asked.outcome.action, reason)

    def _unconditional(
        self, course: _Course, asked: _Asked, call: Call, proceed: Proceed, verdict: Verdict | None = None
    ) -> Outcome:
        """Answers an unconditional call of its own, after the conditional one."""
        outputs = tensors(asked.outcome.output)
        now = Conditional(call.moment, asked.call.latents, outputs, halves.listed(call), call.weight)
        computed, policy = asked.outcome.action == "computed", course.policy
        verdict = policy.judge(call.moment, computed) if verdict is None else verdict
        self._seen += 1
        if verdict.drop:
            course.away = True
            self._dropped[verdict.reason] += 1
            output = rebuilt(asked.outcome.output, policy.answer(now))
            self._weigh(policy)
            return Outcome(output, "dropped", verdict.reason)
        self._kept[verdict.reason] += 1
        outcome = proceed(call)
        answers = tensors(outcome.output)
        both = None
        if asked.call.evaluated is not None and call.evaluated is not None:
            both = Evaluated(tensors(asked.call.evaluated), tensors(call.evaluated))
        # A cache's correction makes up for forecasts, from which the answers left out in between were made as well.
        moved = _moved(answers, now.outputs, both.conditional) if both is not None and course.away else None
        changed = policy.settle(now, moved or answers, both) or moved
        course.away = course.away and both is None
        self._weigh(policy)
        return outcome if changed is None else outcome._replace(output=rebuilt(outcome.output, changed))

    def _whole(self, call: Call, outcome: Outcome) -> Outcome:
        """Both halves have been answered in one call."""
        conditional = halves.half_output(call, outcome.output, self._last)
        unconditional = halves.half_output(call, outcome.output, not self._last)
        latents, both = self._half(call, call.latents), None
        if call.evaluated is not None:
            sides = (halves.half_output(call, call.evaluated, side) for side in (self._last, not self._last))
            both = Evaluated(*map(tensors, sides))
        now = Conditional(call.moment, latents, tensors(conditional), halves.listed(call), call.weight)
        policy = self._course(call, latents).policy
        self._seen += 1
        changed = policy.settle(now, tensors(unconditional), both)
        self._weigh(policy)
        if changed is None:
            return outcome
        return outcome._replace(output=self._joined(call, rebuilt(unconditional, changed), conditional))

    def _half(self, call: Call, latents: Tensors) -> Tensors:
        """The conditional half of the latents."""
        if halves.listed(call):
            middle = len(latents) // 2
            return latents[middle:] if self._last else latents[:middle]
        return tensors(halves.half_output(call, latents, self._last))

    def _joined(self, call: Call, unconditional: Any, conditional: Any) -> Any:
        first, second = (unconditional, conditional) if self._last else (conditional, unconditional)
        return halves.joined(call, first, second)

    def _course(self, call: Call, latents: Tensors) -> _Course:
        key = [(tensor.shape, tensor.dtype, tensor.device) for tensor in latents]
        known = self._courses.get(call.denoiser)
        if known is None or known.key != key:
            known = self._courses[call.denoiser] = _Course(key, self.method.policy(self.anatomy))
        return known

    def _weigh(self, policy: Policy) -> None:
        held = sum(tensor.numel() * tensor.element_size() for tensor in policy.held())
        self._peak = max(self._peak, held)


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


def _moved(outputs: Tensors, answered: Tensors, evaluated: Tensors) -> Tensors | None:
    """The outputs, moved as the conditional ones were; None where those were not."""
    if all(answer is own for answer, own in zip(answered, evaluated, strict=True)):
        return None
    return [
        (output.float() + (answer.float() - own.float())).to(output.dtype)
        for output, answer, own in zip(outputs, answered, evaluated, strict=True)
    ]


def _same_question(call: Call, asked: Call) -> bool:
    """Whether both calls of the step are about the same latents. Mostly they are one object; else a host sync."""
    if call.moment.run != asked.moment.run or call.moment.step != asked.moment.step:
        return False
    return len(call.latents) == len(asked.latents) and all(
        mine is other or (mine.shape == other.shape and torch.equal(mine, other))
        for mine, other in zip(call.latents, asked.latents, strict=True)
    )
