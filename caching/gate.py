"""The engine: every cache at the denoiser's boundary is this gate with its own signal, policy and predictor.

It stands at the denoiser's own call (latents in, prediction out), so it needs no knowledge of the model's inside, costs
memory of latent size, and is right with ControlNet residuals, LoRA and offloading by construction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from accel.anatomy import Anatomy
from accel.caching import parallel
from accel.caching.conditions import MOST_STREAMS, StreamConditions, guidance_asked
from accel.caching.correction import ForecastCorrector
from accel.caching.hindsight import largest_error
from accel.caching.policy import NO_HISTORY, Decision, Policy, guard
from accel.caching.predictor import PastValues, Predictor, Steps
from accel.caching.probe import hearing, obstacle
from accel.caching.signal import Probe, Signal
from accel.call import DenoiserCall, DenoiserResult, Proceed, carries_state, rebuilt, structure, tensors
from accel.lever import Lever
from accel.reasons import Code
from accel.report import CallRecord, LeverReport
from accel.update import LinearUpdates
from accel.watched import STATE, why_needed

if TYPE_CHECKING:
    from accel.caching.cache_method import CacheMethod

Key = tuple[object, ...]

# Levers of guidance ask the unconditional stream every few steps; one that was away for longer begins anew.
PAUSE = 3
MIXED = "frames at several noise levels in one call"


@dataclass
class Stream:
    """What is known about one stream of one denoiser in this run."""

    key: Key  # while it stays the same, past outputs say something about the next one
    span: range  # the positions of the steps that it will take
    signal: Signal
    policy: Policy
    predictor: Predictor
    corrector: ForecastCorrector | None  # where forecasts are corrected
    history: list[PastValues] = field(default_factory=list)
    seen: int = -1  # the last step that called
    computed: int = -1  # the last step that computed
    shapes: list[torch.Size] = field(default_factory=list)  # of the last computed outputs
    template: Any = None  # the structure of the denoiser's output
    needed: str = ""  # why its calls must be computed, where more comes of them than predictions


# Not an Exception: it passes through the model's own code, where an `except Exception` would swallow it and the rest of
# the denoiser would run, for nothing.
class LeaveDenoiser(BaseException):
    """Raised inside the denoiser, after its probe, when the rest of it is not needed."""


class CacheGate(Lever):
    """Forecasts denoiser calls from earlier outputs where the method says so.

    The first stream of a step decides and the others follow, because guidance multiplies any difference between a
    fresh and a predicted output. State is per denoiser and stream. It starts anew with every run, shape and dtype, with
    other conditioning, switches and adapter strengths (`StreamConditions`), and after a pause of more than three steps.
    A batch is evaluated or predicted as a whole: a static schedule treats each sample as a run of its own would, and an
    adaptive cache goes by the sample that moved most, so it computes wherever one of them alone would have. Devices
    that share a denoiser (context parallelism) go by the one that measured most: `accel.caching.parallel`.
    """

    def __init__(self, method: CacheMethod, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._conditions = StreamConditions()
        self._guidance: dict[str, float] = {}
        self._peak = 0
        self.reset()

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._conditions.arguments(given)
        self._guidance = guidance_asked(given)
        return {}

    def end(self) -> None:
        self._guidance = {}

    def reset(self) -> None:
        self._conditions.reset()
        self._streams: dict[tuple[str, str], Stream] = {}
        self._decisions: dict[str, Decision] = {}
        self._alignments: dict[str, torch.Tensor | None] = {}
        self._limits: set[str] = set()  # why forecasts are corrected in part or not at all
        self._known: set[str] = set()  # what is known of this model

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        stream = self._stream(call)
        if stream is None:
            return proceed(call)._replace(reason=f"more than {MOST_STREAMS} streams")
        if not call.leader:
            decision = self._follow(call, stream)
        elif stream.signal.probe is not None:
            return self._run_probe(call, stream, stream.signal.probe, proceed)
        else:
            decision = self._decide(call, stream, None)
        if decision.skip:
            return self._predict(call, stream, decision)
        outcome = proceed(call) if call.evaluate_both is None else call.evaluate_both(call, proceed)
        return self._computed(call, stream, decision, outcome)

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        predicted = sum(call.action == "predicted" for call in calls)
        reason = f"{predicted} of {len(calls)} calls predicted"
        if not predicted:
            reason += f" ({_why_none(calls)})"
        parts = [part for stream in self._streams.values() for part in (stream.signal, stream.policy)]
        notes = self._known | {part.note for part in parts if part.note}
        needed = {stream.needed for stream in self._streams.values() if stream.needed}
        notes |= {f"{reason}, so that calls are computed and never forecast" for reason in needed}
        if calls and calls[-1].action == "predicted" and self.method.final:
            notes.add("the run was interrupted after a prediction, which no computed step has corrected")
        if predicted:
            schedulers = ", ".join(self.anatomy.schedulers.values())
            notes |= {f"forecasts are {limit.format(schedulers)}" for limit in self._limits}
        reason = "; ".join([reason, *sorted(notes)])
        peak, self._peak = self._peak, 0
        return LeverReport("cache", str(self.method), predicted > 0, reason, peak)

    def _stream(self, call: DenoiserCall) -> Stream | None:
        name, step = (call.denoiser, call.stream), call.context.step
        key = (call.layout, self._conditions.key(call))
        stream = self._streams.get(name)
        if stream is None and len(self._streams) >= MOST_STREAMS:
            return None
        if stream is None or stream.key != key or step - stream.seen > PAUSE + 1:
            stream = self._streams[name] = self._begin_stream(call, key)
        stream.seen = step
        return stream

    def _begin_stream(self, call: DenoiserCall, key: Key) -> Stream:
        """A stream whose history begins with this call. What a solver's older outputs still lack is forgotten: it
        is below 0.1 dB at the handover of two experts, and of other conditioning it says nothing.
        """
        context, span = call.context, self._span(call)
        predictor, updates, anatomy = self._forecasting(call)
        predictor, known = self.method.informed(predictor, call, span, anatomy)
        if known:
            self._known.add(known)
        corrector = ForecastCorrector(updates) if updates is not None and predictor.corrects else None
        signal, policy = self.method.make_policy(anatomy, call.denoiser)
        stream = Stream(key, span, signal, predictor.planned(policy), predictor, corrector)
        stream.policy.begin(context.sigmas, span, context.steps)
        return stream

    def _span(self, call: DenoiserCall) -> range:
        """The positions that are left to this denoiser: the first of two experts hands over at a noise level."""
        context, handover = call.context, self.anatomy.handover
        end = context.end
        if handover is not None and call.denoiser == handover[0] and context.table is not None:
            times = [context.table.time_of(sigma) for sigma in context.sigmas]
            end = next((at for at in range(context.position, end) if times[at] < handover[1]), end)
        return range(context.position, end)

    def _why_unfit(self, call: DenoiserCall, stream: Stream) -> Decision | None:
        """The decision to compute where no output of this stream can be forecast."""
        if stream.needed:
            return Decision(False, stream.needed)
        return Decision(False, MIXED) if call.context.mixed else None

    def _too_young(self, stream: Stream) -> Decision | None:
        """The decision to compute where the next output cannot be forecast yet."""
        if len(stream.history) >= self.method.fresh(stream.predictor):
            return None
        return NO_HISTORY._replace(reason="a new history begins") if stream.history else NO_HISTORY

    def _decide(self, call: DenoiserCall, stream: Stream, heard: torch.Tensor | None) -> Decision:
        distance = parallel.largest(call, stream.signal.observe(call, heard))
        alignment = parallel.average(call, getattr(stream.signal, "alignment", None))
        call.alignment = self._alignments[call.denoiser] = alignment
        method, context = self.method, call.context
        forced = self._why_unfit(call, stream) or guard(
            step=context.step, steps=context.steps, left=stream.span.stop - context.position,
            skipped=context.step - stream.computed - 1, warmup=method.warmup, final=method.final,
            max_skips=method.max_skips, min_steps=method.min_steps,
        ) or self._too_young(stream)  # fmt: skip
        decision = forced or stream.policy.decide(distance, context.position, context.total)
        self._decisions[call.denoiser] = decision
        return decision

    def _follow(self, call: DenoiserCall, stream: Stream) -> Decision:
        call.alignment = self._alignments.get(call.denoiser)
        decision = self._decisions.get(call.denoiser, Decision(False, "no decision"))
        forced = self._why_unfit(call, stream) or self._too_young(stream) if decision.skip else None
        return forced or decision._replace(reason=f"as the first stream: {decision.reason}")

    def _run_probe(self, call: DenoiserCall, stream: Stream, probe: Probe, proceed: Proceed) -> DenoiserResult:
        """Runs the denoiser up to the probe and leaves it there if the decision is to skip: a computed step wastes
        nothing, a skipped one costs what lies in front of the probe.
        """
        decisions: list[Decision] = []

        def hear(value: torch.Tensor) -> None:
            if not decisions:
                decisions.append(self._decide(call, stream, value))
                if decisions[0].skip:
                    raise LeaveDenoiser

        reason = obstacle(call.module, probe)
        call.evaluate_both = None  # the probe must hear this call's own samples
        call.probed = reason is None
        unheard = Decision(False, reason or f"nothing was heard at the probe {probe.path}", Code.UNREACHABLE)
        self._decisions[call.denoiser] = unheard  # until something is
        if reason is not None:
            return self._computed(call, stream, unheard, proceed(call))
        try:
            with hearing(call.module, probe, hear):
                outcome = proceed(call)
        except LeaveDenoiser:
            return self._predict(call, stream, decisions[0])
        return self._computed(call, stream, decisions[0] if decisions else unheard, outcome)

    def _computed(
        self, call: DenoiserCall, stream: Stream, decision: Decision, outcome: DenoiserResult
    ) -> DenoiserResult:
        gap = call.context.step - stream.computed
        stream.computed = call.context.step
        if not stream.history:  # it is asked where a history begins, because it looks at every attention
            stream.needed = why_needed(call, outcome.output)
        elif carries_state(outcome.output):
            stream.needed = STATE
        if stream.needed:
            stream.history, stream.corrector = [], None
            return outcome._replace(reason=stream.needed)
        outputs = tensors(outcome.output)
        shapes = [value.shape for value in outputs]
        if stream.history and shapes != stream.shapes:
            # Another kind of output (Qwen-Image 2.1 with its key-value cache returns more the first time).
            self._streams[call.denoiser, call.stream] = stream = self._begin_stream(call, stream.key)
            stream.seen = stream.computed = call.context.step
        stream.shapes = shapes
        if call.leader:
            stream.signal.after_compute(call, outputs)
            stream.policy.after_compute()
        memory = stream.predictor.remember(call, outputs, self.anatomy.prediction)
        if call.leader and stream.history and stream.policy.watches(call.context.position):
            foreseen = stream.predictor.foreseen(call, stream.history, memory, self.anatomy.prediction)
            error = parallel.largest(call, largest_error(foreseen, memory.values))
            stream.policy.after_forecast(call.context.position, gap, error or 0.0)
        answer, reason = self._correct(call, stream, memory, outcome.output, decision.reason)
        self._peak = max(self._peak, self._held_bytes())
        stream.history = [*stream.history, memory][-stream.predictor.depth :]
        stream.template = structure(outcome.output)
        return DenoiserResult(answer, outcome.action, reason, decision.code)

    def _correct(
        self, call: DenoiserCall, stream: Stream, memory: PastValues, answer: Any, reason: str
    ) -> tuple[Any, str]:
        """The computed output, corrected for the errors of the last forecasts, and why."""
        if stream.corrector is None:
            handed = stream.predictor.handed_on(memory, stream.history)
            return answer if handed is None else rebuilt(answer, handed), reason
        predictor, history, length = stream.predictor, stream.history, stream.corrector.length

        def between(steps: Steps) -> list[torch.Tensor]:
            return predictor.between(memory, history, steps)

        stream.corrector.begin(call.context)
        values = stream.corrector.correct_computed(memory.values, between)
        if values is None:
            return answer, reason
        reason += f"; corrects the last {length}" if length else ""
        return rebuilt(answer, predictor.to_outputs(call, values, self.anatomy.prediction)), reason

    def _predict(self, call: DenoiserCall, stream: Stream, decision: Decision) -> DenoiserResult:
        predictor, kind = stream.predictor, self.anatomy.prediction
        forecast = predictor.forecast(call, stream.history, kind)
        values = forecast.values
        if stream.corrector is not None:
            stream.corrector.begin(call.context)
            values = stream.corrector.correct_forecast(forecast)
        self._peak = max(self._peak, self._held_bytes())
        answer = rebuilt(stream.template, predictor.to_outputs(call, values, kind))
        call.spared_sizes.append((self.method.lever, call.rows))
        return DenoiserResult(answer, "predicted", decision.reason, decision.code)

    def _forecasting(self, call: DenoiserCall) -> tuple[Predictor, LinearUpdates | None, Anatomy]:
        """The predictor as it fits this run's updates, these where they can correct its forecasts, and the anatomy
        with what only the run tells: its call may ask for noise (DDIM's `eta`), or its timetable be beyond the solver.
        """
        predictor, updates, reason = self.method.predictor.under(call.updates, self.anatomy.prediction)
        asked = self._guidance
        anatomy = replace(self.anatomy, guidance_scale=asked.get("guidance_scale"), guidance_asked=asked)
        if reason:
            self._limits.add(f"not corrected under {{}}: {reason}")
            anatomy = replace(anatomy, uncorrectable=dict.fromkeys(anatomy.uncorrectable, reason))
        elif updates is not None and updates.random:
            self._limits.add("corrected in part under {}: its updates add noise")
            anatomy = replace(anatomy, random=True)
        return predictor, updates, anatomy

    def _held_bytes(self) -> int:
        held: list[torch.Tensor] = []
        for stream in self._streams.values():
            held += stream.signal.kept_tensors()
            for memory in stream.history:
                held += memory.values
            if stream.corrector is not None:
                held += stream.corrector.kept_tensors()
        return sum([tensor.nbytes for tensor in held])


def _why_none(calls: Sequence[CallRecord]) -> str:
    """Why nothing was skipped, and what to do about it where a setting decided that."""
    over = sum(call.code == Code.OVER_THRESHOLD for call in calls)
    if over:
        return f"what was measured reached the threshold in {over} of them: raise it to skip"
    short = next((call.reason for call in calls if call.code == Code.SHORT_RUN), "")
    if short:  # the first stream's, and all others follow it
        return short
    reasons = Counter(call.reason for call in calls).most_common(2)
    return ", ".join(reason for reason, _ in reasons)
