"""The gate in front of the cache that decides, step by step, whether the unconditional pass is needed.

Every pipeline combines its two outputs in its own way (guidance scale, rescaling, normalisation, dynamic scales), and
every one of them gives the conditional output where both are equal, and sees no difference where the unconditional one
is made from others. So nothing of the pipeline changes except the outputs that it receives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.call import DenoiserCall, DenoiserResult, Proceed, tensors
from accel.lever import Lever
from accel.report import CallRecord, LeverReport
from accel.samplers.guidance.batch_form import BatchForm
from accel.samplers.guidance.passes import UNKNOWN_ROLES, AnsweredCall, PassObserver
from accel.samplers.guidance.policy import GuidanceMethod
from accel.samplers.guidance.run_passes import PassAccount, RunPasses
from accel.samplers.guidance.two_calls import TwoCallForm

UNHEARD = "the pipeline makes its updates where nobody hears them, so it was not seen what becomes of its passes"
ENTANGLED = "the denoiser tells the passes of a batch by their place (perturbed attention), so none can run alone"


class GuidanceGate(Lever):
    """Replaces unconditional passes where the method says so; what it makes up never reaches the levers below.

    Which call is which is seen: named calls (`cache_context`, guiders) say so themselves. All others run as they are
    until their first update, where what the scheduler is given says whether this is guidance, and which output is the
    conditional one (`accel.samplers.guidance.passes`); the first step's outputs count as measured then. Two calls for
    each step are `TwoCallForm`, one batched call is `BatchForm`. Anything else (tiles, perturbed passes, guidance that
    is off) passes untouched. State is per denoiser and starts anew with every run and shape.
    """

    def __init__(self, method: GuidanceMethod, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self.begin({})

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self._account, self._has_true_scale, self._came = PassAccount(), False, False
        self.reset()

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._has_true_scale = "true_cfg_scale" in given
        return {}

    def reset(self) -> None:
        self._observer = PassObserver()
        self._passes = RunPasses(partial(self.method.policy, self.anatomy), self._account)
        self._two_calls, self._batch = TwoCallForm(self._passes), BatchForm(self._passes, self.anatomy.guidance_calls)

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        self._came = True
        roles = self._observer.roles.get(call.denoiser, UNKNOWN_ROLES)
        if call.stream in roles.conditional or call.stream in roles.unconditional:
            return self._two_calls.answer(call, proceed, roles)
        if call.entangled:
            self._account.why_none = ENTANGLED
            return proceed(call)
        if call.guided is False:
            self._account.why_none = "no unconditional pass was seen: guidance is off at this scale"
        batches = self._batch.batches_of(call)
        splits = batches.may_be_passes(call)
        known = self._batch.known(call, roles) if splits else None
        if known is not None and batches.repeats(call, known.sizes or batches.sizes, known.parts):
            state = self._batch.state_of(call, known)
            apart, every = self._batch.apart(call, state, known)
            if apart:
                return self._batch.in_parts(call, proceed, state, known, every)
            return self._batch.as_one(call, proceed, state, known)
        outcome = proceed(call)
        if batches.several and roles.batch is not None:
            self._account.why_none = "each step has several batches alike, from which guidance would be left out apart"
        elif reason := self._passes.why_needed(call, outcome):
            self._account.why_none = f"{reason}, so no pass is left out"
        elif known is not None:  # where only the output tells what of the batch is the latents
            batches.sizes = tuple(tensors(outcome.output)[0].shape[1:])
            found = batches.repeats(call, batches.sizes, known.parts)
            return self._batch.whole(call, outcome, known) if found else outcome
        elif self._observer.is_open(call.denoiser):
            self._observer.observe(AnsweredCall(call, outcome, splits))
        return outcome

    def after_step(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        told = self._observer.observe_step(arguments)
        batch = self._observer.roles[told[0].call.denoiser].batch if told else None
        if batch is not None:
            self._batch.whole(told[0].call, told[0].outcome, batch)
        for other in told[1:]:
            self._account.seen += 1
            state = self._passes.state_of(other.call, other.call.latents)
            self._passes.settled(state.passes[0], told[0], other.call, other.outcome)
        return result

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        account = self._account
        dropped = account.dropped.total()
        reason = f"{dropped} of {account.seen} unconditional passes left out"
        if dropped:
            reason += f" ({', '.join(f'{count}: {why}' for why, count in account.dropped.most_common(3))})"
        elif not self._came:
            reason = "no latents were found in the denoiser's calls, so it was not seen what these are for"
        elif not account.seen and self.anatomy.embedded_guidance:
            reason = "the guidance scale is an input of this model and there was no unconditional pass to leave out"
            if self._has_true_scale:
                reason += "; with true_cfg_scale above 1 and a negative prompt there is one"
        elif not account.seen:
            reason = account.why_none or (self._observer.why_none if self._observer.heard else UNHEARD)
        elif account.kept or account.why_none:
            reason += f" ({account.kept.most_common(1)[0][0] if account.kept else account.why_none})"
        if account.extra:
            reason += f"; {account.extra} more launches, because the cache behind it looks into each part of a batch"
        return LeverReport("guidance", str(self.method), dropped > 0, reason, account.peak)
