"""Guidance in one batched call: the conditional part goes on alone where the others are left out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from accel.call import DenoiserCall, DenoiserResult, Proceed, rebuilt, tensors
from accel.reasons import Code
from accel.samplers.guidance import batched_cfg
from accel.samplers.guidance.passes import AnsweredCall, BatchRoles, PassRoles
from accel.samplers.guidance.policy import ConditionalPass, EvaluatedPair, Tensors
from accel.samplers.guidance.run_passes import GuidanceState, RunPasses

# What one of so many equal parts of a batch is called, and how much it is.
PIECES = {2: "half", 3: "third"}
PARTS = {2: "half", 3: "a third"}


class BatchForm:
    """The batches of one run. recorded: what is known of the pipeline's guidance (`Anatomy.guidance_calls`).

    The conditional part is a stream of its own, so that a cache never mixes batches of two sizes, and the output is put
    together again. A pass that comes and goes returns in the batch, so there is one launch in each step; where a cache
    is behind, it returns as a second call, so that each part has one unbroken history, and caches that do not look
    inside of the denoiser have all evaluated in one launch even then. Of several passes besides the conditional one
    (a picture to edit) all are left out, or none.
    """

    def __init__(self, passes: RunPasses, recorded: str) -> None:
        self._passes, self._recorded = passes, recorded
        self._batches: dict[str, batched_cfg.RepeatedBatches] = {}

    def batches_of(self, call: DenoiserCall) -> batched_cfg.RepeatedBatches:
        """What is known about the batched calls of this denoiser."""
        batches = self._batches.get(call.denoiser)
        if batches is None:
            batches = self._batches[call.denoiser] = batched_cfg.RepeatedBatches()
        return batches

    def state_of(self, call: DenoiserCall, batch: BatchRoles) -> GuidanceState:
        """How the passes of such a batch stand that may be left out."""
        return self._passes.state_of(call, self._main(call, call.latents, batch), len(batch.others))

    def known(self, call: DenoiserCall, roles: PassRoles) -> BatchRoles | None:
        """What such batches are, where the run or the record of this pipeline says so."""
        if roles.batch is not None:
            return roles.batch if (roles.batch.layout, roles.batch.guided) == (call.layout, call.guided) else None
        recorded = {"conditional half last": BatchRoles(2, 1), "conditional half first": BatchRoles(2, 0)}
        return recorded.get(self._recorded) if call.guided else None

    def apart(
        self, call: DenoiserCall, state: GuidanceState, batch: BatchRoles
    ) -> tuple[bool, batched_cfg.AllParts | None]:
        """Whether a batch that is known goes on in parts, and what evaluates them all, if they are all evaluated."""
        verdict = state.decide(call.context, True)
        if verdict.drop:
            return True, None
        if state.halved and state.cached and state.resumes:
            return True, batched_cfg.AllParts(call, batch.parts)
        self._passes.account.kept[verdict.reason] += 1
        return False, None

    def as_one(self, call: DenoiserCall, proceed: Proceed, state: GuidanceState, batch: BatchRoles) -> DenoiserResult:
        """The whole batch, evaluated."""
        # What a lever below remembers of the part that goes on alone must outlive a visit of the whole.
        whole = replace(call, leader=False) if state.halved and state.resumes else call
        outcome = proceed(whole)
        call.raw_output = whole.raw_output
        return self.whole(call, outcome, batch)

    def in_parts(
        self,
        call: DenoiserCall,
        proceed: Proceed,
        state: GuidanceState,
        batch: BatchRoles,
        every: batched_cfg.AllParts | None,
    ) -> DenoiserResult:
        """The conditional part alone, then whatever replaces the others; `every` where these are evaluated as well."""
        state.halved = True
        names = _part_names(batch)
        parts = [batched_cfg.split_part(call, index, batch.parts, name) for index, name in enumerate(names)]
        for index, part in enumerate(parts):
            part.leader = part.leader and index == batch.main
            part.evaluate_both = None if every is None else partial(every.part_result, index)
        asked = AnsweredCall(parts[batch.main], proceed(parts[batch.main]))
        verdict, results = self._passes.verdict(state, asked), {batch.main: asked.outcome}
        for index, other in zip(batch.others, state.passes, strict=True):
            results[index] = (
                self._passes.left_out(other, asked, parts[index], verdict)
                if verdict.drop
                else self._passes.settled(other, asked, parts[index], proceed(parts[index]))
            )
        self._passes.account.extra += max(len(call.launch_sizes) - 1, 0)
        told, share = results[batch.others[0]], PARTS[batch.parts]
        reason = f"in parts: {told.reason}" if told.action == "computed" else f"{share} of the batch: {told.reason}"
        output = batched_cfg.join_parts(call, [results[index].output for index in range(batch.parts)])
        return asked.outcome._replace(output=output, reason=reason)

    def whole(self, call: DenoiserCall, outcome: DenoiserResult, batch: BatchRoles) -> DenoiserResult:
        """All parts have been computed in one call."""
        outputs = [batched_cfg.part_output(call, outcome.output, index, batch.parts) for index in range(batch.parts)]
        latents, raw = self._main(call, call.latents, batch), None
        if call.raw_output is not None:
            raw = [
                tensors(batched_cfg.part_output(call, call.raw_output, at, batch.parts)) for at in range(batch.parts)
            ]
        now = ConditionalPass(call.context, latents, tensors(outputs[batch.main]), call.is_list, call.weight)
        state = self._passes.state_of(call, latents, len(batch.others))
        state.cached = outcome.code is not Code.COMPUTED
        self._passes.account.seen += len(state.passes)
        moved = False
        for index, other in zip(batch.others, state.passes, strict=True):
            both = EvaluatedPair(raw[batch.main], raw[index]) if raw is not None else None
            changed = other.policy.observe_both(now, tensors(outputs[index]), both)
            if changed is not None:
                outputs[index], moved = rebuilt(outputs[index], changed), True
        self._passes.weigh()
        return outcome._replace(output=batched_cfg.join_parts(call, outputs)) if moved else outcome

    def _main(self, call: DenoiserCall, latents: Tensors, batch: BatchRoles) -> Tensors:
        """The conditional part of the latents."""
        if call.is_list:
            size = len(latents) // batch.parts
            return latents[batch.main * size : (batch.main + 1) * size]
        return tensors(batched_cfg.part_output(call, latents, batch.main, batch.parts))


def _part_names(batch: BatchRoles) -> list[str]:
    """What the streams of a batch's parts are called."""
    piece = PIECES[batch.parts]
    names = [f"unconditional {piece}"] * batch.parts
    for number, index in enumerate(batch.others[1:], 2):
        names[index] += f" {number}"
    names[batch.main] = f"conditional {piece}"
    return names
