"""One pipeline call in progress: its clock, its levers, and the record of what they did."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from accel import conventions
from accel.anatomy import Anatomy
from accel.call import CONDITIONING, LATENTS, TIMESTEP, Arguments, DenoiserCall, DenoiserResult, tensors
from accel.call_forms import CallForms, with_arguments
from accel.callbacks import set_aside_in_callbacks
from accel.clock import Clock
from accel.components import denoisers_of
from accel.deferred import Adapter, read_all
from accel.lever import CompositeLever, JumpedResult, Lever
from accel.ownership import AT_WORK, CallOwner
from accel.patch import Wrapper, unwrap_methods
from accel.reasons import Code
from accel.report import CallRecord, Report
from accel.savings import with_savings
from accel.shared_scheduler import OthersUses
from accel.update import LinearUpdates, Unknown, handed_on

CALLED_AGAIN = (
    "The pipeline was called again from its own callback, which starts its scheduler anew under the run in progress: "
    "call another pipeline there, type(pipe)(**{**pipe.components, 'scheduler': copy.deepcopy(pipe.scheduler)})."
)


class PipelineCall(CallOwner):
    """One call of a pipeline, or one `running()` block: hears its schedulers and denoisers, and asks the levers.

    Each has a report of its own. The clock and the levers may serve again, but never two calls at once. `parts` are the
    identities of the objects that are listened to.
    """

    def __init__(
        self,
        label: str,
        parts: frozenset[int],
        arguments: Mapping[str, Arguments],
        anatomy: Anatomy,
        clock: Clock,
        levers: Sequence[Lever],
    ) -> None:
        super().__init__(parts)
        self.report, self.levers, self.strays = Report(label, notes=anatomy.caveats), CompositeLever(None, levers), 0
        self._answer = self.levers.chain()  # what a denoiser call goes through
        self._arguments, self._anatomy, self._clock = arguments, anatomy, clock
        self._given: dict[str, Any] = {}  # the pipeline call's own arguments
        self._callbacks: list[Wrapper] = []  # over those that are objects
        self.called_again = False  # the same pipeline, from its own callback
        self._others = OthersUses()
        self._adapters: dict[str, Adapter] = {}
        self._absent: set[str] = set()  # attributes that the pipeline does not have
        self._forms = CallForms()
        self._known_updates: dict[tuple[int, str], LinearUpdates | Unknown] = {}  # by run and space
        self._pipe: weakref.ref[Any] | None = None
        self._started = self._first_call = self._last_step = 0.0
        self._at_last_step, self._on_host = False, True

    def begin(self, pipe: Any, components: Mapping[str, Any]) -> None:
        """The pipeline is about to run, here, with these parts."""
        self.take_over()
        self._pipe = weakref.ref(pipe)
        self._clock.clear()
        self.levers.accompany(components)
        self.levers.begin(dict(denoisers_of(components)))
        self.levers.reset()
        self._started = time.perf_counter()

    def changed_arguments(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the pipeline's call as the levers want them, and with callbacks that are none of it."""
        self._given = self._forms.named(method, args, kwargs)
        others, wrapped = set_aside_in_callbacks(self, self._given)
        self._callbacks += wrapped  # a pipeline may call itself
        others |= self.levers.arguments(self._given)
        return with_arguments(method, args, kwargs, others) if others else (args, kwargs)

    @property
    def given(self) -> Mapping[str, Any]:
        """The arguments of the pipeline's call, by name, as they were given; none in a `running()` block."""
        return self._given

    def set_timesteps(self, scheduler: Any, name: str, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self._others.forget(scheduler)
        result = inner(*args, **kwargs)
        if self.levers.parts:
            self.levers.after_set_timesteps(name, scheduler, inner, self._forms.named(inner, args, kwargs))
        self._clock.begin_run(scheduler, name)
        self.levers.reset()
        return result

    def step(self, scheduler: Any, name: str, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._others.pending:
            self._others.check(scheduler)
        result = inner(*args, **kwargs)
        if self.levers.updates:
            result = self.levers.after_step(name, scheduler, self._forms.named(inner, args, kwargs), result)
            if isinstance(result, JumpedResult):
                result = result.result
        self._clock.step_done(scheduler)
        if self._at_last_step:
            _finish_device_work()
        self._last_step = time.perf_counter()
        return result

    @contextmanager
    def cache_context(
        self, _: torch.nn.Module, denoiser: str, inner: Callable[..., Any], /, name: str, **kwargs: Any
    ) -> Iterator[None]:
        outer = self._clock.cache_contexts.get(denoiser)
        self._clock.cache_contexts[denoiser] = name
        try:
            with inner(name, **kwargs):
                yield
        finally:
            self._clock.cache_contexts[denoiser] = outer

    def adapt(self, module: torch.nn.Module, name: str, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What runs in front of a denoiser is called: put off, where a lever may leave the denoiser out.

        A gradient does not come through what is put off.
        """
        if AT_WORK.get() is self or not self.levers.answers or torch.is_grad_enabled():
            return inner(*args, **kwargs)
        return self._adapters.setdefault(name, Adapter())(inner, args, kwargs)

    def denoise(
        self, module: torch.nn.Module, name: str, inner: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        # A denoiser inside a denoiser call is the same call seen twice (a second layer, a nested pipeline).
        if AT_WORK.get() is self:
            return inner(*args, **kwargs)
        self._first_call = self._first_call or time.perf_counter()
        call = self._arrive(name, module, inner, args, kwargs)
        start, before = time.perf_counter(), AT_WORK.set(self)
        try:
            outcome = self._answer(call) if call.latents else _unread(call)
        finally:
            AT_WORK.reset(before)
        context, seconds = call.context, time.perf_counter() - start
        self._at_last_step = context.last
        if self._clock.copies:  # whose steps nobody hears
            self._last_step = start + seconds
        self.report.calls.append(
            CallRecord(
                context.run, context.step, context.position, context.sigma,
                call.stream, name, outcome.action, outcome.reason, seconds, outcome.code,
                len(call.launch_sizes), sum(call.launch_sizes) / max(call.rows, 1),
                tuple([(lever, size / max(call.rows, 1)) for lever, size in call.spared_sizes]),
            )
        )  # fmt: skip
        return outcome.output

    def hear_others(self, event: str, part: Any, name: str, caller: CallOwner | None) -> None:
        """Somebody else is about to call a part while this call is in progress, perhaps one of its own."""
        if event == "denoise" and caller is None:  # perhaps it is ours, in a thread that we cannot tell
            self.strays += 1
        elif event in ("set_timesteps", "step") and self.owns(part):
            self._others.hear(self, part, name)

    def explain(self, error: Exception) -> None:
        """Adds to an exception what may have led to it and is no fault of the pipeline's."""
        for note in ([CALLED_AGAIN] if self.called_again else []) + self._others.explanations():
            error.add_note(note)

    def _arrive(
        self,
        name: str,
        module: torch.nn.Module,
        inner: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> DenoiserCall:
        bound = self._arguments[name].bind(args, kwargs)
        conditioning = tensors(Arguments.pick(bound, CONDITIONING))
        pipe = self._pipe() if self._pipe is not None else None
        context, stream, leader, content = self._clock.place_call(
            name,
            conditioning[0] if conditioning else None,
            Arguments.pick(bound, TIMESTEP),
            # Of a loop of the user's own it would be the number of the last call of the pipeline.
            getattr(pipe, "_num_timesteps", None) if self._given else None,
        )
        latents = tensors(Arguments.pick(bound, LATENTS))
        self._on_host &= not latents or latents[0].device.type == "cpu"
        scaled = self._attribute(pipe, "do_classifier_free_guidance")
        guided = None if scaled is None else bool(scaled)
        entangled = bool(self._attribute(pipe, conventions.PERTURBS_BY_PLACE))
        return DenoiserCall(
            name, stream, leader, context, args, kwargs, latents, module, bound,
            forward=inner, guided=guided, entangled=entangled, content=content, updates=self._updates,
        )  # fmt: skip

    def _attribute(self, pipe: Any, name: str) -> Any:
        """What the pipeline says of itself; None where it does not. Then it is not asked again: the attributes that
        diffusers' pipelines do not have are the slow ones.
        """
        if name in self._absent:
            return None
        found = getattr(pipe, name, None)
        if found is None:
            self._absent.add(name)
        return found

    def _updates(self, space: str) -> LinearUpdates:
        """What this run's updates make of the pipeline's outputs, or of the clean estimates that they imply."""
        place = self._clock.run, space
        if place not in self._known_updates:
            others = self._known_updates.items()
            self._known_updates = {known: updates for known, updates in others if known[0] == self._clock.run}
            try:
                self._known_updates[place] = self._measured(space)
            except Unknown as reason:
                self._known_updates[place] = reason.untraced()
        found = self._known_updates[place]
        if isinstance(found, Unknown):
            raise found.untraced()
        return found

    def _measured(self, space: str) -> LinearUpdates:
        name, table = self._clock.scheduler, self._clock.timetable
        received, reason = self._anatomy.received.get(name, "unknown"), self._anatomy.uncorrectable.get(name)
        if reason or table is None:
            raise Unknown(reason or "there is no scheduler to ask")
        if received != "unknown" and ("flow" in received) != table.flow:
            raise Unknown("the pipeline converts outputs before it hands them on")
        # As diffusers' pipelines hand on what they are given (`prepare_extra_step_kwargs`).
        extra = {known: self._given[known] for known in handed_on(table.scheduler) if self._given.get(known)}
        around = partial(self.levers.rehearsal, name)
        return self._clock.updates(received if space == "x0" else None, extra, around)

    def end(self) -> None:
        """It is over, by return or by exception: close the report and let go of every tensor. Again: does nothing."""
        self.hand_back()
        unwrap_methods(self._callbacks)
        if self._started:
            self.report.notes += self._notes()
        if self._started and self.report.calls:
            _finish_device_work()
            end = time.perf_counter()
            last = max(self._last_step, self._first_call)
            self.report.seconds = {
                "total": end - self._started,
                "before": self._first_call - self._started,
                "denoise": last - self._first_call,
                "after": end - last,
            }
            told, calls = [lever.report(self.report.calls) for lever in self.levers.parts], self.report.calls
            self.report.levers = with_savings(told, calls, last - self._first_call, on_host=self._on_host)
        self._started = 0.0
        self._clock.clear()
        self.levers.reset()
        self.levers.end()
        self.levers, self._given, self._adapters, self._known_updates = CompositeLever(None, ()), {}, {}, {}
        self._answer, self._forms, self._others = self.levers.chain(), CallForms(), OthersUses()

    def _notes(self) -> Iterator[str]:
        """What the report must say about calls that are no denoiser calls of this pipeline call's own."""
        if self.strays:
            yield (
                f"{self.strays} denoiser calls came from another thread or task and were passed through: they are "
                "another pipeline's or, if this pipeline starts threads of its own, ones that Python does not tell "
                "what they belong to. Such threads are started with contextvars.copy_context().run."
            )
        for name, adapter in self._adapters.items():
            if adapter.computed < adapter.asked:
                yield f"The {name} was computed in {adapter.computed:.3g} of its {adapter.asked} calls."
        if self.called_again:
            yield CALLED_AGAIN
        yield from self._others.notes()
        if self._clock.copies:
            yield (
                f"{self._anatomy.pipeline} steps copies of its scheduler, which nobody can hear: steps are told by the "
                "timesteps that the denoiser is given, and a sampler cannot act."
            )
        if not self.strays and not self.report.calls:
            yield (
                "No denoiser call came through accel in the last pipeline call, so nothing was accelerated: "
                "something has replaced the denoiser's forward. Call accel.accelerate again."
            )


def _unread(call: DenoiserCall) -> DenoiserResult:
    """Levers need the latents, so a call in which none are found is computed."""
    reason = f"no latents were found among the denoiser's arguments ({', '.join(call.arguments)}): it computes"
    call.launch_sizes.append(call.rows)
    return DenoiserResult(
        call.forward(*read_all(call.args), **read_all(call.kwargs)), "computed", reason, Code.COMPUTED
    )


def _finish_device_work() -> None:
    """Phase times are wall-clock: kernels that were only launched have not run yet."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
