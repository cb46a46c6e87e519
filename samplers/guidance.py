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

    def begin(self, denoisers: Mapping[str, torch.nn.Module]) -> None:
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
        outcome = self._batched(call, proceed)
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
        return self._unconditional(self._course(call, call.latents), asked, call, proceed)

    def _batched(self, call: Call, proceed: Proceed) -> Outcome:
        pairs = self._pairs.setdefault(call.denoiser, halves.Pairs())
        known = self._watch.roles.get(call.denoiser)
        if not pairs.expects(call) or (known is not None and known.last is None):
            if pairs.alike and call.guided and halves.same_input(call, None):
                self._watch.why_none = SAME_PROMPTS
            return proceed(call)
        last = known.last if known is not None else self._on_record(call)
        self._last = last is not False
        if last is None or not halves.same_input(call, pairs.outputs):
            outcome = proceed(call)
            pairs.outputs = tensors(outcome.output)
            if not halves.same_input(call, pairs.outputs):
                return outcome
            if last is not None:
                return self._whole(call, outcome)
            sides = [tensors(halves.half_output(call, outcome.output, side)) for side in (False, True)]
            self._watch.halved(call, *(torch.stack(side) if call.listed else side[0] for side in sides))
            return outcome
        course = self._course(call, self._half(call, call.latents))
        verdict = course.policy.judge(call.moment, True)
        apart = course.halved and course.cached and course.policy.resumes
        if verdict.drop or apart:
            return self._halves(call, proceed, course, None if verdict.drop else halves.Together(call))
        self._kept[verdict.reason] += 1
        # What a lever below remembers of the half that goes on alone must outlive a visit of the whole.
        whole = replace(call, leader=False) if course.halved and course.policy.resumes else call
        outcome = proceed(whole)
        course.cached = outcome.code is not Code.COMPUTED
        call.evaluated, pairs.outputs = whole.evaluated, tensors(outcome.output)
        return self._whole(call, outcome)

    def _on_record(self, call: Call) -> bool | None:
        """Whether the conditional half is the last one, where that is known and guidance is on."""
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
        outcome = self._unconditional(course, asked, other, proceed)
        self._extra += max(len(call.launched) - 1, 0)
        reason = f"in halves: {outcome.reason}" if outcome.action == "computed" else f"half the batch: {outcome.reason}"
        return asked.outcome._replace(output=self._joined(call, outcome.output, asked.outcome.output), reason=reason)

    def _unconditional(self, course: _Course, asked: Asked, call: Call, proceed: Proceed) -> Outcome:
        """Answers an unconditional call of its own, after the conditional one."""
        outputs = tensors(asked.outcome.output)
        now = Conditional(call.moment, asked.call.latents, outputs, call.listed, call.weight)
        computed, policy = asked.outcome.action == "computed", course.policy
        verdict = policy.judge(call.moment, computed)
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


def _moved(outputs: Tensors, answered: Tensors, evaluated: Tensors) -> Tensors | None:
    """The outputs, moved as the conditional ones were; None where those were not."""
    if all(answer is own for answer, own in zip(answered, evaluated, strict=True)):
        return None
    return [
        (output.float() + (answer.float() - own.float())).to(output.dtype)
        for output, answer, own in zip(outputs, answered, evaluated, strict=True)
    ]
