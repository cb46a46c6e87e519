"""The engine: every cache of this package is this gate with its own signal, decider and predictor.

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
from accel.caching.decider import NO_HISTORY, Decider, Decision, guard
from accel.caching.gap import Gap
from accel.caching.predictor import Memory, Predictor, Steps
from accel.caching.probe import hearing, obstacle
from accel.caching.regime import MOST_STREAMS, Regime
from accel.caching.signal import Probe, Signal
from accel.calls import Call, Outcome, Proceed, carries_state, rebuilt, structure, tensors
from accel.lever import Lever
from accel.reasons import Code
from accel.report import CallRecord, LeverReport
from accel.update import Updates

if TYPE_CHECKING:
    from accel.caching.method import CacheMethod

Key = tuple[object, ...]

STATE = "the output carries state"
# Levers of guidance ask the unconditional stream every few steps; one that was away for longer begins anew.
PAUSE = 3
MIXED = "frames at several noise levels in one call"


@dataclass
class Stream:
    """What is known about one stream of one denoiser in this run."""

    key: Key  # while it stays the same, past answers say something about the next one
    span: range  # the positions of the steps that it will take
    signal: Signal
    decider: Decider
    predictor: Predictor
    gap: Gap | None  # where forecasts are made up for
    history: list[Memory] = field(default_factory=list)
    seen: int = -1  # the last step that called
    computed: int = -1  # the last step that computed
    shapes: list[torch.Size] = field(default_factory=list)  # of the last computed outputs
    template: Any = None  # the structure of the denoiser's output
    stateful: bool = False  # its outputs hold more than predictions


# Not an Exception: it passes through the model's own code, where an `except Exception` would swallow it and the rest of
# the denoiser would run, for nothing.
class Leave(BaseException):
    """Raised inside the denoiser, after its probe, when the rest of it is not needed."""


class CacheGate(Lever):
    """Answers denoiser calls from the past where the method says so.

    The first stream of a step decides and the others follow, because guidance multiplies any difference between a
    fresh and a predicted answer. State is per denoiser and stream. It starts anew with every run, shape and dtype, with
    other conditioning, switches and adapter strengths (`Regime`), and after a pause of more than three steps.
    A batch is evaluated or predicted as a whole: a static schedule treats each sample as a run of its own would, and an
    adaptive cache goes by the sample that moved most, so it computes wherever one of them alone would have. Devices
    that share a denoiser (context parallelism) go by the one that measured most: `accel.caching.parallel`.
    """

    def __init__(self, method: CacheMethod, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._regime = Regime()
        self._peak = 0
        self.reset()

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._regime.arguments(given)
        return {}

    def reset(self) -> None:
        self._regime.reset()
        self._streams: dict[tuple[str, str], Stream] = {}
        self._decisions: dict[str, Decision] = {}
        self._alignments: dict[str, torch.Tensor | None] = {}
        self._limits: set[str] = set()  # of what forecasts get wrong being made up for

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        stream = self._stream(call)
        if stream is None:
            return proceed(call)._replace(reason=f"more than {MOST_STREAMS} streams")
        if not call.leader:
            decision = self._follow(call, stream)
        elif stream.signal.probe is not None:
            return self._probed(call, stream, stream.signal.probe, proceed)
        else:
            decision = self._decide(call, stream, None)
        if decision.skip:
            return self._predict(call, stream, decision)
        outcome = proceed(call) if call.together is None else call.together(call, proceed)
        return self._computed(call, stream, decision, outcome)

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        predicted = sum(call.action == "predicted" for call in calls)
        reason = f"{predicted} of {len(calls)} calls predicted"
        if not predicted:
            reason += f" ({_why_none(calls)})"
        notes = {stream.signal.note for stream in self._streams.values() if stream.signal.note}
        if any(stream.stateful for stream in self._streams.values()):
            notes.add(f"{STATE}, so that calls are computed and never forecast")
        if calls and calls[-1].action == "predicted" and self.method.final:
            notes.add("the run was interrupted after a prediction, which no computed step has corrected")
        if predicted:
            schedulers = ", ".join(self.anatomy.schedulers.values())
            notes |= {f"forecasts are {limit.format(schedulers)}" for limit in self._limits}
        reason = "; ".join([reason, *sorted(notes)])
        peak, self._peak = self._peak, 0
        return LeverReport("cache", str(self.method), predicted > 0, reason, peak)

    def _stream(self, call: Call) -> Stream | None:
        name, step = (call.denoiser, call.stream), call.moment.step
        key = (call.layout, self._regime.key(call))
        stream = self._streams.get(name)
        if stream is None and len(self._streams) >= MOST_STREAMS:
            return None
        if stream is None or stream.key != key or step - stream.seen > PAUSE + 1:
            stream = self._streams[name] = self._begun(call, key)
        stream.seen = step
        return stream

    def _begun(self, call: Call, key: Key) -> Stream:
        """A stream whose history begins with this call. What is still owed to a solver's older answers is forgotten: it
        is below 0.1 dB at the handover of two experts, and of other conditioning it says nothing.
        """
        moment, span = call.moment, self._span(call)
        predictor, updates, anatomy = self._forecasting(call)
        gap = None if updates is None else Gap(updates)
        stream = Stream(key, span, *self.method.parts(anatomy, call.denoiser), predictor, gap)
        stream.decider.begin(moment.sigmas, span, moment.steps)
        return stream

    def _span(self, call: Call) -> range:
        """The positions that are left to this denoiser: the first of two experts hands over at a noise level."""
        moment, handover = call.moment, self.anatomy.handover
        end = moment.end
        if handover is not None and call.denoiser == handover[0] and moment.table is not None:
            times = [moment.table.time_of(sigma) for sigma in moment.sigmas]
            end = next((at for at in range(moment.position, end) if times[at] < handover[1]), end)
        return range(moment.position, end)

    def _unfit(self, call: Call, stream: Stream) -> Decision | None:
        """The decision to compute where no answer of this stream can be forecast."""
        if stream.stateful:
            return Decision(False, STATE)
        return Decision(False, MIXED) if call.moment.mixed else None

    def _young(self, stream: Stream) -> Decision | None:
        """The decision to compute where the next answer cannot be forecast yet."""
        if len(stream.history) >= self.method.fresh(stream.predictor):
            return None
        return NO_HISTORY._replace(reason="a new history begins") if stream.history else NO_HISTORY

    def _decide(self, call: Call, stream: Stream, heard: torch.Tensor | None) -> Decision:
        distance = parallel.largest(call, stream.signal.observe(call, heard))
        alignment = parallel.average(call, getattr(stream.signal, "alignment", None))
        call.alignment = self._alignments[call.denoiser] = alignment
        method, moment = self.method, call.moment
        forced = self._unfit(call, stream) or guard(
            step=moment.step, steps=moment.steps, left=stream.span.stop - moment.position,
            skipped=moment.step - stream.computed - 1, warmup=method.warmup, final=method.final,
            max_skips=method.max_skips, min_steps=method.min_steps,
        ) or self._young(stream)  # fmt: skip
        decision = forced or stream.decider.decide(distance, moment.position, moment.total)
        self._decisions[call.denoiser] = decision
        return decision

    def _follow(self, call: Call, stream: Stream) -> Decision:
        call.alignment = self._alignments.get(call.denoiser)
        decision = self._decisions.get(call.denoiser, Decision(False, "no decision"))
        forced = self._unfit(call, stream) or self._young(stream) if decision.skip else None
        return forced or decision._replace(reason=f"as the first stream: {decision.reason}")

    def _probed(self, call: Call, stream: Stream, probe: Probe, proceed: Proceed) -> Outcome:
        """Runs the denoiser up to the probe and leaves it there if the decision is to skip: a computed step wastes
        nothing, a skipped one costs what lies in front of the probe.
        """
        decisions: list[Decision] = []

        def hear(value: torch.Tensor) -> None:
            if not decisions:
                decisions.append(self._decide(call, stream, value))
                if decisions[0].skip:
                    raise Leave

        reason = obstacle(call.module, probe)
        call.together = None  # the probe must hear this call's own samples
        unheard = Decision(False, reason or f"nothing was heard at the probe {probe.path}", Code.UNREACHABLE)
        self._decisions[call.denoiser] = unheard  # until something is
        if reason is not None:
            return self._computed(call, stream, unheard, proceed(call))
        try:
            with hearing(call.module, probe, hear):
                outcome = proceed(call)
        except Leave:
            return self._predict(call, stream, decisions[0])
        return self._computed(call, stream, decisions[0] if decisions else unheard, outcome)

    def _computed(self, call: Call, stream: Stream, decision: Decision, outcome: Outcome) -> Outcome:
        stream.computed, stream.stateful = call.moment.step, carries_state(outcome.output)
        if stream.stateful:
            stream.history, stream.gap = [], None
            return outcome._replace(reason=STATE)
        outputs = tensors(outcome.output)
        if stream.history and [value.shape for value in outputs] != stream.shapes:
            # Another kind of answer (Qwen-Image 2.1 with its key-value cache answers longer the first time).
            self._streams[call.denoiser, call.stream] = stream = self._begun(call, stream.key)
            stream.seen = stream.computed = call.moment.step
        stream.shapes = [value.shape for value in outputs]
        if call.leader:
            stream.signal.computed(call, outputs)
            stream.decider.computed()
        memory = stream.predictor.remember(call, outputs, self.anatomy.prediction)
        answer, reason = self._corrected(call, stream, memory, outcome.output, decision.reason)
        self._peak = max(self._peak, self._held_bytes())
        stream.history = [*stream.history, memory][-stream.predictor.depth :]
        stream.template = structure(outcome.output)
        return Outcome(answer, outcome.action, reason, decision.code)

    def _corrected(self, call: Call, stream: Stream, memory: Memory, answer: Any, reason: str) -> tuple[Any, str]:
        """The computed answer with what the last forecasts owe, and why."""
        if stream.gap is None:
            return answer, reason
        predictor, history, length = stream.predictor, stream.history, stream.gap.length

        def between(steps: Steps) -> list[torch.Tensor]:
            return predictor.between(memory, history, steps)

        stream.gap.begin(call.moment)
        values = stream.gap.computed(memory.values, between)
        if values is None:
            return answer, reason
        reason += f"; corrects the last {length}" if length else ""
        return rebuilt(answer, predictor.answer(call, values, self.anatomy.prediction)), reason

    def _predict(self, call: Call, stream: Stream, decision: Decision) -> Outcome:
        predictor, kind = stream.predictor, self.anatomy.prediction
        forecast = predictor.forecast(call, stream.history, kind)
        values = forecast.values
        if stream.gap is not None:
            stream.gap.begin(call.moment)
            values = stream.gap.predicted(forecast)
        self._peak = max(self._peak, self._held_bytes())
        answer = rebuilt(stream.template, predictor.answer(call, values, kind))
        return Outcome(answer, "predicted", decision.reason, decision.code)

    def _forecasting(self, call: Call) -> tuple[Predictor, Updates | None, Anatomy]:
        """The predictor as it fits this run's updates, these where they can make up for its forecasts, and the anatomy
        with what only the run tells: its call may ask for noise (DDIM's `eta`), or its timetable be beyond the solver.
        """
        predictor, updates, reason = self.method.predictor.under(call.updates, self.anatomy.prediction)
        anatomy = self.anatomy
        if reason:
            self._limits.add(f"not corrected under {{}}: {reason}")
            anatomy = replace(anatomy, uncorrectable=dict.fromkeys(anatomy.uncorrectable, reason))
        elif updates is not None and updates.random:
            self._limits.add("corrected in part under {}: its updates add noise")
            anatomy = replace(anatomy, random=True)
        return predictor, updates, anatomy

    def _held_bytes(self) -> int:
        held = [
            tensor
            for stream in self._streams.values()
            for tensor in [
                *stream.signal.held(),
                *(value for memory in stream.history for value in memory.values),
                *(stream.gap.held() if stream.gap else []),
            ]
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _why_none(calls: Sequence[CallRecord]) -> str:
    """Why nothing was skipped, and what to do about it where a setting decided that."""
    over = sum(call.code == Code.OVER_THRESHOLD for call in calls)
    if over:
        return f"what was measured reached the threshold in {over} of them: raise it to skip"
    reasons = Counter(call.reason for call in calls).most_common(2)
    return ", ".join(reason for reason, _ in reasons)
