"""Guidance in two calls for each step: the unconditional call is given an output and goes no further."""

from __future__ import annotations

from accel.call import DenoiserCall, DenoiserResult, Proceed
from accel.samplers.guidance.passes import AnsweredCall, PassRoles, same_latents
from accel.samplers.guidance.run_passes import RunPasses


class TwoCallForm:
    """The pairs of calls of one run."""

    def __init__(self, passes: RunPasses) -> None:
        self._passes = passes
        self._asked: dict[str, AnsweredCall] = {}  # by denoiser, the last conditional call

    def answer(self, call: DenoiserCall, proceed: Proceed, roles: PassRoles) -> DenoiserResult:
        """The result for either call."""
        if call.stream in roles.conditional:
            outcome = proceed(call)
            self._asked[call.denoiser] = AnsweredCall(call, outcome)
            if reason := self._passes.why_needed(call, outcome):
                self._passes.account.why_none = f"{reason}, so no pass is left out"
            return outcome
        asked = self._asked.get(call.denoiser)
        if asked is None or not same_latents(call, asked.call) or self._passes.needed.get(call.denoiser):
            return proceed(call)
        state = self._passes.state_of(call, call.latents)
        verdict = self._passes.verdict(state, asked)
        if verdict.drop:
            return self._passes.left_out(state.passes[0], asked, call, verdict)
        return self._passes.settled(state.passes[0], asked, call, proceed(call))
