"""The gate in front of the cache that decides, step by step, whether the unconditional pass is needed.

Every pipeline combines its two outputs in its own way (guidance scale, rescaling, normalisation, dynamic scales), and
every one of them gives the conditional output where both are equal, and sees no difference where the unconditional one
is made from others. So nothing of the pipeline changes except the outputs that it receives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch

from accel.anatomy import Anatomy
from accel.call import DenoiserCall, DenoiserResult, Proceed, rebuilt, tensors
from accel.clock import StepContext
from accel.lever import InactiveLever, Lever
from accel.method import Method
from accel.reasons import Code
from accel.report import CallRecord, LeverReport
from accel.samplers.guidance import batched_cfg
from accel.samplers.guidance.passes import SAME_PROMPTS, AnsweredCall, PassObserver, PassRoles, same_latents
from accel.samplers.recorded_steps import RecordedStep

Tensors = list[torch.Tensor]


class GuidanceDecision(NamedTuple):
    """Whether the unconditional pass is left out, and why (or why not)."""

    drop: bool
    reason: str


@dataclass(frozen=True)
class ConditionalPass:
    """What is known when the unconditional output of a step is due: the conditional one and what it was made from.

    outputs, latents: tensors (B, ...), or one tensor for each sample where `listed`. The outputs are those that the
    pipeline gets, which a cache may have predicted, or have evaluated and corrected.
    """

    context: StepContext
    latents: Tensors
    outputs: Tensors
    listed: bool = False
    weight: float = 0.0  # see `DenoiserCall.weight`


class EvaluatedPair(NamedTuple):
    """The denoiser's own two outputs in a step, where no cache predicted either."""

    conditional: Tensors
    unconditional: Tensors


class GuidancePolicy(Protocol):
    """State for one denoiser in one run.

    resumes: the unconditional pass comes and goes, and is made from the conditional one in between. Only what a policy
    is told by `observe_both` may change what it says: `decide` is asked as often as needed.
    """

    resumes: bool = False

    def decide(self, context: StepContext, computed: bool) -> GuidanceDecision:
        """Is the unconditional pass left out at this step? computed: the conditional output was evaluated and not
        predicted by a cache, so that the unconditional one would be evaluated as well.
        """

    def substitute_output(self, now: ConditionalPass) -> Tensors:
        """The outputs used where the unconditional pass is left out; new tensors."""

    def observe_both(
        self, now: ConditionalPass, unconditional: Tensors, evaluated: EvaluatedPair | None
    ) -> Tensors | None:
        """The pass was not left out. Other outputs to take the place of these, or None to leave them.

        evaluated: both outputs as the denoiser gave them, for measurements; None where a cache predicted one.
        """

    def kept_tensors(self) -> Tensors:
        """The tensors kept, for the memory account."""
        return []


@dataclass(frozen=True)
class GuidanceMethod(Method, lever="guidance", abstract=True):
    """Base of the guidance techniques. All they need to know is which of the pipeline's calls is which."""

    def policy(self, anatomy: Anatomy) -> GuidancePolicy:
        """Fresh state for one denoiser in one run."""
        raise NotImplementedError

    def guided_steps(self, steps: Sequence[RecordedStep]) -> list[bool]:
        """Which steps of a recorded run would have both passes. By default all that compute."""
        return [step.computed for step in steps]

    def build(self, anatomy: Anatomy) -> Lever:
        if anatomy.guidance_calls == "more than two":
            return InactiveLever(
                self, f"{anatomy.pipeline} combines more than two passes, so none is left out: take a cache."
            )
        return GuidanceGate(self, anatomy)


@dataclass
class _GuidanceState:
    """How one denoiser stands in this run."""

    key: object
    policy: GuidancePolicy
    halved: bool = False  # the conditional half of the batch has gone on alone
    cached: bool = False  # a lever below has a say in its calls, so that each half needs a history of its own
    away: bool = False  # unconditional outputs were made up since the last time that both were evaluated


class GuidanceGate(Lever):
    """Replaces unconditional passes where the method says so; what it makes up never reaches the levers below.

    Which call is which is seen: named calls (`cache_context`, guiders) say so themselves, and so does a batch of the
    same latents twice with two kinds of prompts, where the pipeline says that guidance is on and it is on record which
    half is which. All others run as they are until their first update, where what the scheduler is given says whether
    this is guidance, and which output is the conditional one (`accel.samplers.guidance.passes`).
    Two calls per step: the unconditional call gets its output and goes no further. One batched call: the conditional
    half goes on alone, as a stream of its own, so that a cache never mixes batches of two sizes, and the output is put
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
        self._courses: dict[str, _GuidanceState] = {}
        self._asked: dict[str, AnsweredCall] = {}
        self._pairs: dict[str, batched_cfg.KnownPairs] = {}
        self._watch = PassObserver()

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        roles = self._watch.roles.get(call.denoiser, PassRoles())
        if call.stream in roles.conditional or call.stream in roles.unconditional:
            return self._two_calls(call, proceed, roles)
        if call.guided is False:
            self._watch.why_none = "no unconditional pass was seen: guidance is off at this scale"
        if call.guided is False or self.anatomy.guidance_calls == "two calls":
            return proceed(call)
        pairs = self._pairs.setdefault(call.denoiser, batched_cfg.KnownPairs())
        if not self._may_be_pair(call, pairs):
            outcome = proceed(call)
        elif (course := self._course_of_pair(call, pairs)) is None:
            outcome = self._looked_at(call, pairs, proceed(call))
        else:
            verdict = course.policy.decide(call.context, True)
            apart = course.halved and course.cached and course.policy.resumes
            if verdict.drop or apart:
                outcome = self._halves(call, proceed, course, None if verdict.drop else batched_cfg.BothHalves(call))
            else:
                outcome = self._batch(call, proceed, course, verdict)
        self._watch.observe_call(AnsweredCall(call, outcome))
        return outcome

    def after_step(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        self._watch.observe_step(arguments)
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

    def _two_calls(self, call: DenoiserCall, proceed: Proceed, roles: PassRoles) -> DenoiserResult:
        if call.stream in roles.conditional:
            outcome = proceed(call)
            self._asked[call.denoiser] = AnsweredCall(call, outcome)
            return outcome
        asked = self._asked.get(call.denoiser)
        if asked is None or not same_latents(call, asked.call):
            return proceed(call)
        course = self._course(call, call.latents)
        left_out = self._left_out(course, asked, call)
        return self._settled(course, asked, call, proceed(call)) if left_out is None else left_out

    def _may_be_pair(self, call: DenoiserCall, pairs: batched_cfg.KnownPairs) -> bool:
        """Whether the batch may be both passes of guidance."""
        known = self._watch.roles.get(call.denoiser)
        if pairs.are_pairs(call) and (known is None or known.last is not None):
            return True
        if pairs.alike and call.guided and batched_cfg.same_input(call, None):
            self._watch.why_none = SAME_PROMPTS
        return False

    def _course_of_pair(self, call: DenoiserCall, pairs: batched_cfg.KnownPairs) -> _GuidanceState | None:
        """The denoiser's state, where it is known before the evaluation that the batch is both passes, and which is
        which.
        """
        last = self._conditional_half_is_last(call)
        self._last = last is not False
        known = last is not None and batched_cfg.same_input(call, pairs.outputs)
        return self._course(call, self._half(call, call.latents)) if known else None

    def _looked_at(self, call: DenoiserCall, pairs: batched_cfg.KnownPairs, outcome: DenoiserResult) -> DenoiserResult:
        """The result for a batch of which only the output can tell what it was."""
        pairs.outputs = tensors(outcome.output)
        if not batched_cfg.same_input(call, pairs.outputs):
            return outcome
        if self._conditional_half_is_last(call) is not None:
            return self._whole(call, outcome)
        sides = [tensors(batched_cfg.half_output(call, outcome.output, side)) for side in (False, True)]
        self._watch.observe_halves(call, *(torch.stack(side) if call.is_list else side[0] for side in sides))
        return outcome

    def _batch(
        self, call: DenoiserCall, proceed: Proceed, course: _GuidanceState, verdict: GuidanceDecision
    ) -> DenoiserResult:
        """Both halves in the batch that they came in."""
        self._kept[verdict.reason] += 1
        # What a lever below remembers of the half that goes on alone must outlive a visit of the whole.
        whole = replace(call, leader=False) if course.halved and course.policy.resumes else call
        outcome = proceed(whole)
        course.cached = outcome.code is not Code.COMPUTED
        call.raw_output, self._pairs[call.denoiser].outputs = whole.raw_output, tensors(outcome.output)
        return self._whole(call, outcome)

    def _conditional_half_is_last(self, call: DenoiserCall) -> bool | None:
        """None where neither the run nor the record of this pipeline says so, or guidance is off."""
        seen = self._watch.roles.get(call.denoiser)
        if seen is not None:
            return seen.last
        recorded = {"conditional half last": True, "conditional half first": False}
        return recorded.get(self.anatomy.guidance_calls) if call.guided else None

    def _halves(
        self, call: DenoiserCall, proceed: Proceed, course: _GuidanceState, both: batched_cfg.BothHalves | None
    ) -> DenoiserResult:
        """The conditional half alone, then whatever replaces the other; `both` where that is evaluated as well."""
        course.halved = True
        half = batched_cfg.split_half(call, self._last, "conditional")
        other = replace(batched_cfg.split_half(call, not self._last, "unconditional"), leader=False)
        if both is not None:
            half.evaluate_both, other.evaluate_both = (
                partial(both.half_result, self._last),
                partial(both.half_result, not self._last),
            )
        asked = AnsweredCall(half, proceed(half))
        outcome = self._left_out(course, asked, other)
        if outcome is None:
            outcome = self._settled(course, asked, other, proceed(other))
        self._extra += max(len(call.launch_sizes) - 1, 0)
        reason = f"in halves: {outcome.reason}" if outcome.action == "computed" else f"half the batch: {outcome.reason}"
        return asked.outcome._replace(output=self._joined(call, outcome.output, asked.outcome.output), reason=reason)

    def _left_out(self, course: _GuidanceState, asked: AnsweredCall, call: DenoiserCall) -> DenoiserResult | None:
        """The result for an unconditional call of its own, after the conditional one, where it is left out."""
        policy = course.policy
        verdict = policy.decide(call.context, asked.outcome.action == "computed")
        self._seen += 1
        if not verdict.drop:
            self._kept[verdict.reason] += 1
            return None
        course.away = True
        self._dropped[verdict.reason] += 1
        output = rebuilt(asked.outcome.output, policy.substitute_output(_conditional(asked, call)))
        self._weigh(policy)
        return DenoiserResult(output, "dropped", verdict.reason)

    def _settled(
        self, course: _GuidanceState, asked: AnsweredCall, call: DenoiserCall, outcome: DenoiserResult
    ) -> DenoiserResult:
        """Its result, where the levers below gave this one."""
        now, policy, answers = _conditional(asked, call), course.policy, tensors(outcome.output)
        both = None
        if asked.call.raw_output is not None and call.raw_output is not None:
            both = EvaluatedPair(tensors(asked.call.raw_output), tensors(call.raw_output))
        # A cache's correction makes up for forecasts, from which the outputs left out in between were made as well.
        moved = _move_results(answers, now.outputs, both.conditional) if both is not None and course.away else None
        changed = policy.observe_both(now, moved or answers, both) or moved
        course.away = course.away and both is None
        self._weigh(policy)
        return outcome if changed is None else outcome._replace(output=rebuilt(outcome.output, changed))

    def _whole(self, call: DenoiserCall, outcome: DenoiserResult) -> DenoiserResult:
        """Both halves have been computed in one call."""
        conditional = batched_cfg.half_output(call, outcome.output, self._last)
        unconditional = batched_cfg.half_output(call, outcome.output, not self._last)
        latents, both = self._half(call, call.latents), None
        if call.raw_output is not None:
            sides = (batched_cfg.half_output(call, call.raw_output, side) for side in (self._last, not self._last))
            both = EvaluatedPair(*map(tensors, sides))
        now = ConditionalPass(call.context, latents, tensors(conditional), call.is_list, call.weight)
        policy = self._course(call, latents).policy
        self._seen += 1
        changed = policy.observe_both(now, tensors(unconditional), both)
        self._weigh(policy)
        if changed is None:
            return outcome
        return outcome._replace(output=self._joined(call, rebuilt(unconditional, changed), conditional))

    def _half(self, call: DenoiserCall, latents: Tensors) -> Tensors:
        """The conditional half of the latents."""
        if call.is_list:
            middle = len(latents) // 2
            return latents[middle:] if self._last else latents[:middle]
        return tensors(batched_cfg.half_output(call, latents, self._last))

    def _joined(self, call: DenoiserCall, unconditional: Any, conditional: Any) -> Any:
        first, second = (unconditional, conditional) if self._last else (conditional, unconditional)
        return batched_cfg.join_halves(call, first, second)

    def _course(self, call: DenoiserCall, latents: Tensors) -> _GuidanceState:
        key = [(tensor.shape, tensor.dtype, tensor.device) for tensor in latents]
        known = self._courses.get(call.denoiser)
        if known is None or known.key != key:
            known = self._courses[call.denoiser] = _GuidanceState(key, self.method.policy(self.anatomy))
        return known

    def _weigh(self, policy: GuidancePolicy) -> None:
        held = sum(tensor.numel() * tensor.element_size() for tensor in policy.kept_tensors())
        self._peak = max(self._peak, held)


def _conditional(asked: AnsweredCall, call: DenoiserCall) -> ConditionalPass:
    outputs = tensors(asked.outcome.output)
    return ConditionalPass(call.context, asked.call.latents, outputs, call.is_list, call.weight)


def _move_results(outputs: Tensors, answered: Tensors, evaluated: Tensors) -> Tensors | None:
    """The outputs, moved as the conditional ones were; None where those were not."""
    if all(answer is own for answer, own in zip(answered, evaluated, strict=True)):
        return None
    return [
        (output.float() + (answer.float() - own.float())).to(output.dtype)
        for output, answer, own in zip(outputs, answered, evaluated, strict=True)
    ]
