"""A Session is a recipe attached to one pipeline: installs the layers, runs the levers, keeps the report, undoes."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch

from accel.anatomy import Anatomy, components_of, denoisers_of, guiders_of, inspect, schedulers_of
from accel.calls import CONDITIONING, LATENTS, TIMESTEP, Arguments, Call, Outcome, tensors
from accel.clock import Clock
from accel.exchange import Exchange
from accel.lever import Lever, rehearsal
from accel.patch import CallLayer, Layer, layered, replaced, session_of
from accel.reasons import Code
from accel.recipe import Recipe
from accel.report import CallRecord, Report
from accel.update import Unknown, Updates, handed_on

# The sampler is first, because it decides which steps there are and which model answers them. Guidance stands in front
# of the cache: an answer made from another stream must never enter a cache.
CHAIN = ("sampler", "guidance", "cache", "attention", "precision")


class Session:
    """A recipe attached to one pipeline. Use `accel.accelerate` to make one.

    The session holds the pipeline weakly and the pipeline holds the session, so both live exactly as long as the
    pipeline does. `restore()` (or leaving the `with` block) gives the untouched pipeline back, for good, and
    `suspended()` for a while. Raises what a method raises that does not fit, and ValueError for a pipeline that has a
    session already; the pipeline is then as it was.
    """

    def __init__(self, pipe: Any, recipe: Recipe) -> None:
        if session_of(pipe) is not None:
            raise ValueError(
                "The pipeline is accelerated already, and a second session would measure the first: "
                "use accel.accelerate, which replaces it, or accel.session.bare, which suspends it."
            )
        self.recipe = recipe
        self._layers: list[Layer] = []
        self._levers: list[Lever] = []
        # A layer on top of an offload hook leads to the weights, which must not live as long as a kept session, and a
        # lever may hold weights of its own.
        layers, levers = self._layers.clear, self._levers.clear
        self._pipe: weakref.ref[Any] | None = weakref.ref(pipe, lambda _: (layers(), levers()))
        self._clock = Clock()
        self._report, self._running, self._inside = Report(recipe.label), 0, False
        self._started = self._first_call = self._last_step = 0.0
        self._at_last_step = self._suspended = False
        self._given: dict[str, Any] = {}
        self._call_layer: CallLayer | None = None
        try:
            self._attach(pipe)
            self._report.notes += self.anatomy.caveats
            self._call_layer = CallLayer(pipe, _Bound(self, "_call", None), self)
        except BaseException:
            self.restore()
            raise

    @property
    def pipe(self) -> Any:
        """The pipeline, or None once restored or gone."""
        return self._pipe() if self._pipe is not None else None

    def report(self) -> Report:
        """The record of the last pipeline call (or of the one in progress)."""
        return self._report

    def restore(self) -> Any:
        """Gives the pipeline back as it was, bit for bit; returns it. A second call does nothing."""
        pipe, self._pipe = self.pipe, None
        self._detach()
        self._layers.clear()
        self._end()
        self._levers.clear()
        return pipe

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The pipeline without acceleration for the duration of the block: every layer is off, not only idle.
        Afterwards, also after an exception, this very session is on again, with its report and all that it knows.

        Whatever else is accelerated in the block and left on is restored at its end. A session that is restored in the
        block stays so. In a block inside of the block nothing is left to do. In the middle of a call, what a lever has
        put on modules within the denoiser stays on them until the call ends.
        """
        pipe = self.pipe
        if pipe is None or self._suspended:
            yield
            return
        self._detach()
        self._suspended = True
        try:
            with self._exchange.unmade(pipe):
                yield
        finally:
            self._suspended = False
            if self.pipe is not None:
                other = session_of(pipe)
                if other is not None:
                    other.restore()
                self._resume(pipe)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Switches the session on around a denoising loop of your own that uses the pipeline's parts.

        Calls of the pipeline itself need no such thing. Outside of both, the layers pass everything through, so a
        denoiser or scheduler that is shared with another pipeline is not accelerated there.
        """
        pipe, outermost = None if self._suspended else self.pipe, not self._running
        self._running += 1
        with ExitStack() as put_back:
            try:
                if pipe is not None and outermost:
                    self._follow(pipe)
                    put_back.enter_context(self._exchange.made(pipe))
                    for guider in guiders_of(components_of(pipe)):
                        put_back.enter_context(_unused(guider))
                    self._begin(pipe)
                yield
            finally:
                self._running -= 1
                if not self._running:
                    self._end()

    def _attach(self, pipe: Any) -> None:
        methods = self.recipe.methods()
        self._exchange = Exchange(pipe, methods.values())
        with self._exchange.made(pipe):
            components = components_of(pipe)
            self.anatomy: Anatomy = inspect(pipe)
        for method in methods.values():
            self.anatomy = method.seen(self.anatomy)
        self._levers[:] = [methods[lever].build(self.anatomy) for lever in CHAIN if lever in methods]
        self._arguments = {name: Arguments(module.forward) for name, module in denoisers_of(components)}
        self._layers[:] = layered(self._plan(components))

    def _detach(self) -> None:
        for layer in reversed(self._layers):
            layer.detach()
        if self._call_layer is not None:
            self._call_layer.detach()

    def _resume(self, pipe: Any) -> None:
        """New layers around the same levers; where parts were exchanged meanwhile, the next call attaches anew."""
        plan = self._planned(pipe)
        self._layers[:] = layered(plan) if self._covered(plan) else []
        self._call_layer = CallLayer(pipe, _Bound(self, "_call", None), self)

    def _planned(self, pipe: Any) -> list[tuple[Any, str, _Bound]]:
        return list(self._plan(self._exchange.parts(components_of(pipe))))

    def _covered(self, plan: list[tuple[Any, str, _Bound]]) -> bool:
        """Whether the layers are, or were, over just these methods."""
        return len(plan) == len(self._layers) and all(
            layer.covers(owner, method) for layer, (owner, method, _) in zip(self._layers, plan, strict=True)
        )

    def _plan(self, components: dict[str, Any]) -> Iterator[tuple[Any, str, _Bound]]:
        """Every method that is listened to: its owner, its name and what stands around it."""
        for name, scheduler in schedulers_of(components):
            yield scheduler, "set_timesteps", _Bound(self, "_set_timesteps", (name, weakref.ref(scheduler)))
            yield scheduler, "step", _Bound(self, "_step", (name, weakref.ref(scheduler)))
        for name, module in denoisers_of(components):
            # A module compiled in place calls this instead; a layer inside of it would be compiled as well.
            compiled = getattr(module, "_compiled_call_impl", None) is not None
            method = "_compiled_call_impl" if compiled else "forward"
            yield module, method, _Bound(self, "_denoise", (name, weakref.ref(module)))
            if hasattr(module, "cache_context"):
                yield module, "cache_context", _Bound(self, "_context", name)

    def _follow(self, pipe: Any) -> None:
        """Brings the layers to where the calls will be: others may have taken theirs off and ours with it, or have
        exchanged a part (`pipe.scheduler = ...`, `torch.compile`).
        """
        if self._covered(self._planned(pipe)):
            self._layers[:] = [layer.renewed() for layer in self._layers]
            return
        for layer in reversed(self._layers):
            layer.detach()
        self._layers.clear()
        self._attach(pipe)

    def _call(self, _: None, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.running():
            self._given = given = _named(inner, args, kwargs)
            changed = {name: value for lever in self._levers for name, value in lever.arguments(given).items()}
            if changed:
                args, kwargs = _changed(inner, args, kwargs, changed)
            return inner(*args, **kwargs)

    def _set_timesteps(
        self, named: tuple[str, weakref.ref[Any]], inner: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        result = inner(*args, **kwargs)
        if self._running:
            name, scheduler = named[0], named[1]()
            arguments = _named(inner, args, kwargs) if self._levers else {}
            for lever in self._levers:
                lever.scheduled(name, scheduler, inner, arguments)
            self._clock.begin_run(scheduler, name)
            for lever in self._levers:
                lever.reset()
        return result

    def _step(self, named: tuple[str, weakref.ref[Any]], inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        if self._running:
            name, scheduler = named[0], named[1]()
            arguments = _named(inner, args, kwargs) if self._levers else {}
            for lever in self._levers:
                result = lever.stepped(name, scheduler, arguments, result)
            for lever in self._levers:
                if lever.jumped():
                    self._forget_run(lever)
            self._clock.step_done(scheduler)
            if self._at_last_step:
                _finish_device_work()
            self._last_step = time.perf_counter()
        return result

    def _forget_run(self, jumped: Lever) -> None:
        """The latents are those of another run: what the others know of this one says nothing about it."""
        for lever in self._levers:
            if lever is not jumped:
                lever.reset()

    def _context(
        self, denoiser: str, inner: Callable[..., Any], name: str, **kwargs: Any
    ) -> AbstractContextManager[None]:
        @contextmanager
        def entered() -> Iterator[None]:
            outer = self._clock.context.get(denoiser)
            self._clock.context[denoiser] = name
            try:
                with inner(name, **kwargs):
                    yield
            finally:
                self._clock.context[denoiser] = outer

        return entered()

    def _denoise(
        self, denoiser: tuple[str, weakref.ref[Any]], inner: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        name, module = denoiser[0], denoiser[1]()
        # A denoiser inside a denoiser call is the same call seen twice (a second layer, a nested pipeline).
        if not self._running or self._inside or module is None:
            return inner(*args, **kwargs)
        self._first_call = self._first_call or time.perf_counter()
        call = self._arrive(name, module, args, kwargs)
        start, self._inside = time.perf_counter(), True
        try:
            outcome = self._chain(call, inner, 0)
        finally:
            self._inside = False
        moment, seconds = call.moment, time.perf_counter() - start
        self._at_last_step = moment.last
        if self._clock.copies:  # whose steps nobody hears
            self._last_step = start + seconds
        self._report.calls.append(
            CallRecord(
                moment.run, moment.step, moment.position, moment.sigma,
                call.stream, name, outcome.action, outcome.reason, seconds, outcome.code,
                len(call.launched), sum(call.launched) / max(call.rows, 1),
            )
        )  # fmt: skip
        return outcome.output

    def _arrive(self, name: str, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        bound = self._arguments[name].bind(args, kwargs)
        conditioning = tensors(Arguments.pick(bound, CONDITIONING))
        moment, stream, leader, content = self._clock.arrive(
            name,
            conditioning[0] if conditioning else None,
            Arguments.pick(bound, TIMESTEP),
            # Of a loop of the user's own it would be the number of the last call of the pipeline.
            getattr(self.pipe, "_num_timesteps", None) if self._given else None,
        )
        latents = tensors(Arguments.pick(bound, LATENTS))
        told = getattr(self.pipe, "do_classifier_free_guidance", None)
        guided = None if told is None else bool(told)
        return Call(
            name, stream, leader, moment, args, kwargs, latents, module, bound,
            guided=guided, content=content, updates=self._updates,
        )  # fmt: skip

    def _updates(self, space: str) -> Updates:
        """What this run's updates make of the pipeline's outputs, or of the clean estimates that they imply."""
        name, table = self._clock.scheduler, self._clock.timetable
        received, reason = self.anatomy.received.get(name, "unknown"), self.anatomy.uncorrectable.get(name)
        if reason or table is None:
            raise Unknown(reason or "there is no scheduler to ask")
        if ("flow" in received) != table.flow:
            raise Unknown("the pipeline converts outputs before it hands them on")
        # As diffusers' pipelines hand on what they are given (`prepare_extra_step_kwargs`).
        extra = {known: self._given[known] for known in handed_on(table.scheduler) if self._given.get(known)}
        around = partial(rehearsal, self._levers, name)
        return self._clock.updates(received if space == "x0" else None, extra, around)

    def _chain(self, call: Call, inner: Callable[..., Any], index: int) -> Outcome:
        if index >= len(self._levers):  # fewer than there were, if somebody has restored in mid-call
            call.launched.append(call.rows)
            call.evaluated = (call.stand_in or inner)(*call.args, **call.kwargs)
            return Outcome(call.evaluated, "computed", "computed", Code.COMPUTED)
        return self._levers[index].handle(call, lambda passed: self._chain(passed, inner, index + 1))

    def _begin(self, pipe: Any) -> None:
        self._clock.clear()
        denoisers = dict(denoisers_of(components_of(pipe)))
        for lever in self._levers:
            lever.begin(denoisers)
            denoisers |= lever.stand_ins()
            lever.reset()
        self._report = Report(self.recipe.label, notes=self.anatomy.caveats)
        self._started, self._first_call, self._last_step = time.perf_counter(), 0.0, 0.0
        self._at_last_step = False

    def _end(self) -> None:
        """The call is over, by return or by exception: close the report and let go of every tensor."""
        if self._started and not self._report.calls:
            self._report.notes.append(
                "No denoiser call came through accel in the last pipeline call, so nothing was accelerated: "
                "something has replaced the denoiser's forward. Call accel.accelerate again."
            )
        if self._started and self._report.calls:
            _finish_device_work()
            end = time.perf_counter()
            last = max(self._last_step, self._first_call)
            self._report.seconds = {
                "total": end - self._started,
                "before": self._first_call - self._started,
                "denoise": last - self._first_call,
                "after": end - last,
            }
            if self._clock.copies:
                self._report.notes.append(
                    f"{type(self.pipe).__name__} steps copies of its scheduler, which nobody can hear: steps are told "
                    f"by the timesteps that the denoiser is given, and a sampler cannot act."
                )
            self._report.levers = [lever.report(self._report.calls) for lever in self._levers]
        self._started = 0.0
        self._clock.clear()
        for lever in self._levers:
            lever.reset()
            lever.end()
        self._given = {}


def bare(pipe: Any) -> AbstractContextManager[None]:
    """The pipeline without acceleration for the duration of the block (`Session.suspended`), whether it has any or not.

    For all that must see the pipeline itself: calibrating, searching, measuring.
    """
    session = session_of(pipe)
    return nullcontext() if session is None else session.suspended()


class _Bound:
    """A session's method with a first argument, holding the session weakly (layers must not keep it alive)."""

    __slots__ = ("_argument", "_name", "_session")

    def __init__(self, session: Session, name: str, argument: Any) -> None:
        self._session, self._name, self._argument = weakref.ref(session), name, argument

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        session = self._session()
        if session is None:
            return inner(*args, **kwargs)
        return getattr(session, self._name)(self._argument, inner, *args, **kwargs)


@contextmanager
def _unused(guider: Any) -> Iterator[None]:
    """diffusers leaves the end of the last run in a guider, and one that had stopped by then asks the next call for no
    negative prompt, which it needs again at the first step.
    """
    with replaced(guider, "_step", None), replaced(guider, "_num_inference_steps", None):
        yield


def _named(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, defaults included; nothing for a call that the method will refuse anyway."""
    try:
        bound = signature(method).bind(*args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    named = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD:
            named |= named.pop(name)
    return named


def _changed(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], changed: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with others in their place, also where the method hands them on (`**options`)."""
    bound = signature(method).bind(*args, **kwargs)
    known = bound.signature.parameters
    rest = next((name for name, parameter in known.items() if parameter.kind is Parameter.VAR_KEYWORD), None)
    bound.arguments |= {name: value for name, value in changed.items() if name in known}
    if rest is not None:
        handed_on = {name: value for name, value in changed.items() if name not in known}
        bound.arguments[rest] = {**bound.arguments.get(rest, {}), **handed_on}
    return bound.args, bound.kwargs


def _finish_device_work() -> None:
    """Phase times are wall-clock: kernels that were only launched have not run yet."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
