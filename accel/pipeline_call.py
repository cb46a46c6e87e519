"""One pipeline call in progress: its clock, its levers, and the record of what they did."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from accel import conventions
from accel.call import CONDITIONING, LATENTS, TIMESTEP, Arguments, DenoiserCall, DenoiserResult, tensors
from accel.call_forms import CallForms, with_arguments
from accel.call_phases import CallPhases, finish_device_work
from accel.callbacks import set_aside_in_callbacks
from accel.clock import Clock
from accel.components import denoisers_of
from accel.deferred import Adapter, read_all
from accel.fitted_recipe import FittedRecipe
from accel.lever import CompositeLever, JumpedResult, Lever
from accel.ownership import AT_WORK, CallOwner
from accel.patch import Wrapper, unwrap_methods
from accel.reasons import Code
from accel.report import CallRecord, Report
from accel.run_updates import RunUpdates
from accel.savings import with_savings
from accel.shared_scheduler import OthersUses
from accel.update import LinearUpdates

CALLED_AGAIN = (
    "The pipeline was called again from its own callback, which starts its scheduler anew under the run in progress: "
    "call another pipeline there, type(pipe)(**{**pipe.components, 'scheduler': copy.deepcopy(pipe.scheduler)})."
)


class PipelineCall(CallOwner):
    """One call of a pipeline, or one `running()` block: hears its schedulers and denoisers, and asks the levers.

    Each has a report of its own. The clock and the levers may serve again, but never two calls at once. `parts` are the
    identities of the objects that are listened to.
    """

    def __init__(self, fitted: FittedRecipe, parts: frozenset[int], clock: Clock, levers: Sequence[Lever]) -> None:
        super().__init__(parts)
        self.report = Report(fitted.recipe.label, notes=fitted.anatomy.caveats)
        self.levers, self.strays = CompositeLever(None, levers), 0
        self._answer = self.levers.chain()  # what a denoiser call goes through
        self._arguments, self._anatomy, self._clock = fitted.arguments, fitted.anatomy, clock
        self.given: dict[str, Any] = {}  # the arguments of the pipeline's call by name; none in a `running()` block
        self._callbacks: list[Wrapper] = []  # over those that are objects
        self.called_again = False  # the same pipeline, from its own callback
        self._others = OthersUses()
        self._adapters: dict[str, Adapter] = {}
        self._absent: set[str] = set()  # attributes that the pipeline does not have
        self._forms = CallForms()
        self._run_updates, self._phases = RunUpdates(fitted.anatomy, clock), CallPhases()
        self._pipe: weakref.ref[Any] | None = None
        self._at_last_step, self._on_host = False, True

    @contextmanager
    def in_progress(self, pipe: Any, components: Mapping[str, Any]) -> Iterator[None]:
        """While the pipeline runs, here, with these parts."""
        try:
            self._begin(pipe, components)
            with self.levers.around_call():
                yield
        except Exception as error:
            for note in ([CALLED_AGAIN] if self.called_again else []) + self._others.explanations():
                error.add_note(note)
            raise
        finally:
            self.end()

    def _begin(self, pipe: Any, components: Mapping[str, Any]) -> None:
        self.take_over()
        self._pipe = weakref.ref(pipe)
        self._clock.clear()
        self.levers.accompany(components)
        self.levers.begin(dict(denoisers_of(components)))
        self.levers.reset()
        self._phases.started = time.perf_counter()

    def changed_arguments(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the pipeline's call as the levers want them, and with callbacks that are none of it."""
        self.given = self._forms.named(method, args, kwargs)
        others, wrapped = set_aside_in_callbacks(self, self.given)
        self._callbacks += wrapped  # a pipeline may call itself
        others |= self.levers.arguments(self.given)
        return with_arguments(method, args, kwargs, others) if others else (args, kwargs)

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
            finish_device_work()
        self._phases.last_step = time.perf_counter()
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
        self._phases.first_call = self._phases.first_call or time.perf_counter()
        call = self._arrive(name, module, inner, args, kwargs)
        start, before = time.perf_counter(), AT_WORK.set(self)
        try:
            outcome = self._answer(call) if call.latents else _unread(call)
        finally:
            AT_WORK.reset(before)
        context, seconds = call.context, time.perf_counter() - start
        self._at_last_step = context.last
        if self._clock.copies:  # whose steps nobody hears
            self._phases.last_step = start + seconds
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
        """Somebody else is about to call a part while this call is in progress."""
        if event == "denoise" and caller is None:  # perhaps it is ours, in a thread that we cannot tell
            self.strays += 1
        elif event in ("set_timesteps", "step") and self.owns(part):
            self._others.hear(self, part, name)

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
            getattr(pipe, "_num_timesteps", None) if self.given else None,
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
        return self._run_updates.of(space, self.given, self.levers.rehearsal)

    def end(self) -> None:
        """It is over, by return or by exception: close the report and let go of every tensor. Again: does nothing."""
        self.hand_back()
        unwrap_methods(self._callbacks)
        begun = self._phases.started > 0.0
        if begun:
            self.report.notes += self._notes()
        if begun and self.report.calls:
            finish_device_work()
            calls, self.report.seconds = self.report.calls, self._phases.seconds(time.perf_counter())
            told = [lever.report(calls) for lever in self.levers.parts]
            self.report.levers = with_savings(told, calls, self.report.seconds["denoise"], on_host=self._on_host)
        self._phases = CallPhases()
        self._clock.clear()
        self.levers.reset()
        self.levers.end()
        self._run_updates.forget()
        self.levers, self.given, self._adapters = CompositeLever(None, ()), {}, {}
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
