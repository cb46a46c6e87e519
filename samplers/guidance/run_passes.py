"""The passes of one run that may be left out: how each stands, and the results of those that are and of those that are
not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from accel.call import DenoiserCall, DenoiserResult, carries_state, rebuilt, tensors
from accel.clock import StepContext
from accel.samplers.guidance.passes import AnsweredCall
from accel.samplers.guidance.policy import ConditionalPass, EvaluatedPair, GuidanceDecision, GuidancePolicy, Tensors
from accel.watched import STATE, why_needed


@dataclass
class OtherPass:
    """How a pass stands that may be left out."""

    policy: GuidancePolicy
    away: bool = False  # its outputs were made up since the last time that both were evaluated


@dataclass
class GuidanceState:
    """How the passes of one stream stand in this run that may be left out: one, or several parts of a batch."""

    key: object
    passes: list[OtherPass]
    halved: bool = False  # the conditional part of the batch has gone on alone
    cached: bool = False  # a lever below has a say in its calls, so that each part needs a history of its own

    def decide(self, context: StepContext, computed: bool) -> GuidanceDecision:
        """All of them are left out, or none is."""
        verdicts = [one.policy.decide(context, computed) for one in self.passes]
        return next((verdict for verdict in verdicts if not verdict.drop), verdicts[0])

    @property
    def resumes(self) -> bool:
        return any(one.policy.resumes for one in self.passes)


@dataclass
class PassAccount:
    """What a pipeline call's report says of its unconditional passes."""

    seen: int = 0
    extra: int = 0  # launches of parts of a batch, besides one for each batch
    peak: int = 0  # bytes held
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    kept: Counter[str] = field(default_factory=Counter)
    why_none: str = ""


class RunPasses:
    """All of a run, by denoiser and stream. make_policy: fresh state for one pass."""

    def __init__(self, make_policy: Callable[[], GuidancePolicy], account: PassAccount) -> None:
        self.account, self._make_policy = account, make_policy
        self._states: dict[tuple[str, str], GuidanceState] = {}
        self.needed: dict[str, str] = {}  # by denoiser, why its calls must be made as they are

    def state_of(self, call: DenoiserCall, latents: Tensors, others: int = 1) -> GuidanceState:
        name = call.denoiser, call.stream
        key = [(tensor.shape, tensor.dtype, tensor.device) for tensor in latents]
        known = self._states.get(name)
        if known is None or known.key != key:
            passes = [OtherPass(self._make_policy()) for _ in range(others)]
            known = self._states[name] = GuidanceState(key, passes)
        return known

    def why_needed(self, call: DenoiserCall, outcome: DenoiserResult) -> str:
        """Why the denoiser's calls must be made as they are; in full it is asked once in a run."""
        if call.denoiser not in self.needed:
            self.needed[call.denoiser] = why_needed(call, outcome.output)
        elif carries_state(outcome.output):
            self.needed[call.denoiser] = STATE
        return self.needed[call.denoiser]

    def verdict(self, state: GuidanceState, asked: AnsweredCall) -> GuidanceDecision:
        """Whether the other passes are left out, after the conditional one."""
        verdict = state.decide(asked.call.context, asked.outcome.action == "computed")
        self.account.seen += len(state.passes)
        (self.account.dropped if verdict.drop else self.account.kept)[verdict.reason] += len(state.passes)
        return verdict

    def left_out(
        self, other: OtherPass, asked: AnsweredCall, call: DenoiserCall, verdict: GuidanceDecision
    ) -> DenoiserResult:
        """The result for an unconditional call of its own that is left out."""
        other.away = True
        output = rebuilt(asked.outcome.output, other.policy.substitute_output(_conditional(asked, call)))
        self.weigh()
        call.spared_sizes.append(("guidance", call.rows))
        return DenoiserResult(output, "dropped", verdict.reason)

    def settled(
        self, other: OtherPass, asked: AnsweredCall, call: DenoiserCall, outcome: DenoiserResult
    ) -> DenoiserResult:
        """Its result, where the levers below gave this one."""
        now, answers = _conditional(asked, call), tensors(outcome.output)
        both = None
        if asked.call.raw_output is not None and call.raw_output is not None:
            both = EvaluatedPair(tensors(asked.call.raw_output), tensors(call.raw_output))
        # A cache's correction makes up for forecasts, from which the outputs left out in between were made as well.
        moved = _move_results(answers, now.outputs, both.conditional) if both is not None and other.away else None
        changed = other.policy.observe_both(now, moved or answers, both) or moved
        other.away = other.away and both is None
        self.weigh()
        return outcome if changed is None else outcome._replace(output=rebuilt(outcome.output, changed))

    def weigh(self) -> None:
        kept = [other.policy.kept_tensors() for state in self._states.values() for other in state.passes]
        held = sum(tensor.numel() * tensor.element_size() for tensors in kept for tensor in tensors)
        self.account.peak = max(self.account.peak, held)


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
