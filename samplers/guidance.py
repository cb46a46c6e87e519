"""The gate in front of the cache that decides, step by step, whether the unconditional pass is needed.

Every pipeline combines its two answers in its own way (guidance scale, rescaling, normalisation, dynamic scales), and
every one of them gives the conditional answer where both are equal, and sees no difference where the unconditional one
is made from others. So nothing of the pipeline is changed but what it is answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch

from accel.anatomy import Anatomy
from accel.calls import Call, Outcome, Proceed, rebuilt, tensors
from accel.clock import Moment
from accel.lever import Idle, Lever
from accel.method import Method
from accel.reasons import Code
from accel.report import CallRecord, LeverReport
from accel.samplers import halves
from accel.samplers.passes import SAME_PROMPTS, Asked, Roles, Watch, same_question
from accel.samplers.recorded_steps import RecordedStep

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

    resumes: the unconditional pass comes and goes, and is made from the conditional one in between. Only what a policy
    is told by `settle` may change what it says: `judge` is asked as often as needed.
    """

    resumes: bool = False

    def judge(self, moment: Moment, computed: bool) -> Verdict:
        """Is the unconditional pass left out at this step? computed: the conditional answer was evaluated and not
        predicted by a cache, so that the unconditional one would be evaluated as well.
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
    """Base of the guidance techniques. They need to see which of the pipeline's calls is which, and nothing else."""

    def policy(self, anatomy: Anatomy) -> Policy:
        """Fresh state for one denoiser in one run."""
        raise NotImplementedError

    def guided_steps(self, steps: Sequence[RecordedStep]) -> list[bool]:
        """Which steps of a recorded run would have both passes. By default all that compute."""
        return [step.computed for step in steps]

    def build(self, anatomy: Anatomy) -> Lever:
        if anatomy.guidance_calls == "more than two":
            return Idle(self, f"{anatomy.pipeline} combines more than two passes, so none is left out: take a cache.")
        return GuidanceGate(self, anatomy)


@dataclass
class _Course:
    """How one denoiser stands in this run."""

    key: object
    policy: Policy
    halved: bool = False  # the conditional half of the batch has gone on alone
    cached: bool = False  # a lever below has a say in its calls, so that each half needs a history of its own
    away: bool = False  # unconditional answers were made up since the last time that both were evaluated


class GuidanceGate(Lever):
    """Answers unconditional passes where the method says so; what it makes up never reaches the levers below.

    Which call is which is seen: named calls (`cache_context`, guiders) say so themselves, and so does a batch of the
    same latents twice with two kinds of prompts, where the pipeline says that guidance is on and it is on record which
    half is which. All others run as they are until their first update, where what the scheduler is given says whether
    this is guidance, and which answer is the conditional one (`accel.samplers.passes`).
    Two calls per step: the unconditional call is answered and goes no further. One batched call: the conditional half
    goes on alone, as a stream of its own, so that a cache never mixes batches of two sizes, and the answer is put
    together again. A pass that comes and goes returns in the batch, so there is one launch in each step; where a cache
    is behind, it returns as a second half call, so that each half has one unbroken history, and caches that do not look
    inside of the denoiser have both evaluated in one launch even then. Anything else (tiles, perturbed passes, batches
    of three, guidance that is off) passes untouched.
    State is per denoiser and starts anew with every run and shape.
    """

    def __init__(self, method: GuidanceMethod, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._open()
        self.reset()

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self._open()

    def _open(self) -> None:
        """Starts the account of a pipeline call."""
        self._seen = self._peak = self._extra = 0
        self._dropped: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()

    def reset(self) -> None:
        self._courses: dict[str, _Course] = {}
        self._asked: dict[str, Asked] = {}
        self._pairs: dict[str, halves.Pairs] = {}
        self._watch = Watch()

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        roles = self._watch.roles.get(call.denoiser, Roles())
        if call.stream in roles.conditional or call.stream in roles.unconditional:
            return self._two_calls(call, proceed, roles)
        if call.guided is False:
            self._watch.why_none = "no unconditional pass was seen: guidance is off at this scale"
        if call.guided is False or self.anatomy.guidance_calls == "two calls":
            return proceed(call)
        pairs = self._pairs.setdefault(call.denoiser, halves.Pairs())
        if not self._may_be_pair(call, pairs):
            outcome = proceed(call)
        elif (course := self._course_of_pair(call, pairs)) is None:
            outcome = self._looked_at(call, pairs, proceed(call))
        else:
            verdict = course.policy.judge(call.moment, True)
            apart = course.halved and course.cached and course.policy.resumes
            if verdict.drop or apart:
                outcome = self._halves(call, proceed, course, None if verdict.drop else halves.Together(call))
            else:
                outcome = self._batch(call, proceed, course, verdict)
        self._watch.answered(Asked(call, outcome))
        return outcome

    def stepped(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        self._watch.stepped(arguments)
        return result

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        dropped = self._dropped.total()
        reason = f"{dropped} of {self._seen} unconditional passes left out"
        if dropped:
            reason += f" ({', '.join(f'{count}: {why}' for why, count in self._dropped.most_common(3))})"
        elif not self._seen and self.anatomy.embedded_guidance:
            reason = (
                "the guidance scale is an input of this model and there was no unconditional pass to leave out; "
                "with true_cfg_scale above 1 and a negative prompt there is one"
            )
        elif not self._seen:
            reason = self._watch.why_none
        elif self._kept:
            reason += f" ({self._kept.most_common(1)[0][0]})"
        if self._extra:
            reason += f"; {self._extra} more launches, because the cache behind it looks into each half of a batch"
        return LeverReport("guidance", str(self.method), dropped > 0, reason, self._peak)

    def _two_calls(self, call: Call, proceed: Proceed, roles: Roles) -> Outcome:
        if call.stream in roles.conditional:
            outcome = proceed(call)
            self._asked[call.denoiser] = Asked(call, outcome)
            return outcome
        asked = self._asked.get(call.denoiser)
        if asked is None or not same_question(call, asked.call):
            return proceed(call)
        course = self._course(call, call.latents)
        left_out = self._left_out(course, asked, call)
        return self._settled(course, asked, call, proceed(call)) if left_out is None else left_out

    def _may_be_pair(self, call: Call, pairs: halves.Pairs) -> bool:
        """Whether the batch may be both passes of guidance."""
        known = self._watch.roles.get(call.denoiser)
        if pairs.expects(call) and (known is None or known.last is not None):
            return True
        if pairs.alike and call.guided and halves.same_input(call, None):
            self._watch.why_none = SAME_PROMPTS
        return False

    def _course_of_pair(self, call: Call, pairs: halves.Pairs) -> _Course | None:
        """How the denoiser stands, where it is known before the answer that the batch is both passes, and which is
        which.
        """
        last = self._conditional_half_is_last(call)
        self._last = last is not False
        known = last is not None and halves.same_input(call, pairs.outputs)
        return self._course(call, self._half(call, call.latents)) if known else None

    def _looked_at(self, call: Call, pairs: halves.Pairs, outcome: Outcome) -> Outcome:
        """The answer to a batch of which only that can tell what it was."""
        pairs.outputs = tensors(outcome.output)
        if not halves.same_input(call, pairs.outputs):
            return outcome
        if self._conditional_half_is_last(call) is not None:
            return self._whole(call, outcome)
        sides = [tensors(halves.half_output(call, outcome.output, side)) for side in (False, True)]
        self._watch.halved(call, *(torch.stack(side) if call.listed else side[0] for side in sides))
        return outcome

    def _batch(self, call: Call, proceed: Proceed, course: _Course, verdict: Verdict) -> Outcome:
        """Both halves in the batch that they came in."""
        self._kept[verdict.reason] += 1
        # What a lever below remembers of the half that goes on alone must outlive a visit of the whole.
        whole = replace(call, leader=False) if course.halved and course.policy.resumes else call
        outcome = proceed(whole)
        course.cached = outcome.code is not Code.COMPUTED
        call.evaluated, self._pairs[call.denoiser].outputs = whole.evaluated, tensors(outcome.output)
        return self._whole(call, outcome)

    def _conditional_half_is_last(self, call: Call) -> bool | None:
        """None where neither the run nor the record of this pipeline says so, or guidance is off."""
        seen = self._watch.roles.get(call.denoiser)
        if seen is not None:
            return seen.last
        recorded = {"conditional half last": True, "conditional half first": False}
        return recorded.get(self.anatomy.guidance_calls) if call.guided else None

    def _halves(self, call: Call, proceed: Proceed, course: _Course, both: halves.Together | None) -> Outcome:
        """The conditional half alone, then whatever answers for the other; `both` where that is evaluated as well."""
        course.halved = True
        half = halves.half_call(call, self._last, "conditional")
        other = replace(halves.half_call(call, not self._last, "unconditional"), leader=False)
        if both is not None:
            half.together, other.together = partial(both.half, self._last), partial(both.half, not self._last)
        asked = Asked(half, proceed(half))
        outcome = self._left_out(course, asked, other)
        if outcome is None:
            outcome = self._settled(course, asked, other, proceed(other))
        self._extra += max(len(call.launched) - 1, 0)
        reason = f"in halves: {outcome.reason}" if outcome.action == "computed" else f"half the batch: {outcome.reason}"
        return asked.outcome._replace(output=self._joined(call, outcome.output, asked.outcome.output), reason=reason)

    def _left_out(self, course: _Course, asked: Asked, call: Call) -> Outcome | None:
        """The answer to an unconditional call of its own, after the conditional one, where it is left out."""
        policy = course.policy
        verdict = policy.judge(call.moment, asked.outcome.action == "computed")
        self._seen += 1
        if not verdict.drop:
            self._kept[verdict.reason] += 1
            return None
        course.away = True
        self._dropped[verdict.reason] += 1
        output = rebuilt(asked.outcome.output, policy.answer(_conditional(asked, call)))
        self._weigh(policy)
        return Outcome(output, "dropped", verdict.reason)

    def _settled(self, course: _Course, asked: Asked, call: Call, outcome: Outcome) -> Outcome:
        """The answer to it, where the levers below gave this one."""
        now, policy, answers = _conditional(asked, call), course.policy, tensors(outcome.output)
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
        now = Conditional(call.moment, latents, tensors(conditional), call.listed, call.weight)
        policy = self._course(call, latents).policy
        self._seen += 1
        changed = policy.settle(now, tensors(unconditional), both)
        self._weigh(policy)
        if changed is None:
            return outcome
        return outcome._replace(output=self._joined(call, rebuilt(unconditional, changed), conditional))

    def _half(self, call: Call, latents: Tensors) -> Tensors:
        """The conditional half of the latents."""
        if call.listed:
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


def _conditional(asked: Asked, call: Call) -> Conditional:
    outputs = tensors(asked.outcome.output)
    return Conditional(call.moment, asked.call.latents, outputs, call.listed, call.weight)


def _moved(outputs: Tensors, answered: Tensors, evaluated: Tensors) -> Tensors | None:
    """The outputs, moved as the conditional ones were; None where those were not."""
    if all(answer is own for answer, own in zip(answered, evaluated, strict=True)):
        return None
    return [
        (output.float() + (answer.float() - own.float())).to(output.dtype)
        for output, answer, own in zip(outputs, answered, evaluated, strict=True)
    ]
