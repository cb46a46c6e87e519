"""A Session is a recipe attached to one pipeline: installs the wrappers, runs the levers, keeps the report, undoes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from accel.anatomy import Anatomy, inspect
from accel.call import Arguments
from accel.clock import Clock
from accel.component_swap import ComponentSwap
from accel.components import adapters_of, components_of, denoisers_of, guiders_of, schedulers_of
from accel.conventions import STEPS
from accel.kept_texts import KeptTexts
from accel.lever import InactiveLever, Lever
from accel.ownership import owner_of, owners, paused
from accel.patch import (
    CHANGING,
    Around,
    CallWrapper,
    Wrapper,
    forward_of,
    plain_copies,
    replace_attribute,
    session_of,
    unwrap_methods,
    wrap_methods,
)
from accel.pipeline_call import PipelineCall
from accel.recipe import Recipe
from accel.report import Report
from accel.shared_scheduler import check_free
from accel.text_cache import MOST_BYTES
from accel.update import config_of

# The sampler is first, because it decides which steps there are and which model computes them. Guidance stands in front
# of the cache: an output made from another stream must never enter a cache. Behind the cache the size may change: it
# remembers outputs at full size.
CHAIN = ("sampler", "guidance", "cache", "resolution", "attention", "precision")


class Session:
    """A recipe attached to one pipeline. Use `accel.accelerate` to make one.

    The session holds the pipeline weakly and the pipeline holds the session, so both live exactly as long as the
    pipeline does. `restore()` (or leaving the `with` block) gives the untouched pipeline back, for good, and
    `suspended()` for a while. Copies that are made meanwhile of the pipeline or of a part are plain, unaccelerated
    ones. Raises what a method raises that does not fit, and ValueError for a pipeline that has a session already; the
    pipeline is then as it was.
    """

    def __init__(self, pipe: Any, recipe: Recipe) -> None:
        if session_of(pipe) is not None:
            raise ValueError(
                "The pipeline is accelerated already, and a second session would measure the first: "
                "use accel.accelerate, which replaces it, or accel.session.bare, which suspends it."
            )
        components = components_of(pipe)
        self.recipe = recipe
        self._wrappers: list[Wrapper] = []
        self._levers: list[Lever] = []
        # A wrapper on top of an offload hook leads to the weights, which must not live as long as a kept session, and a
        # lever may hold weights of its own.
        wrappers, levers = self._wrappers.clear, self._levers.clear
        self._pipe: weakref.ref[Any] | None = weakref.ref(pipe, lambda _: (wrappers(), levers()))
        self._clock = Clock()
        self._report, self._suspended = Report(recipe.label), False
        self._calls: list[PipelineCall] = []  # in progress: several where a callback calls this pipeline again
        self._call_wrapper: CallWrapper | None = None
        self._texts: KeptTexts | None = None
        try:
            self._attach(pipe, components)
            self._report.notes += self.anatomy.caveats
            self._call_wrapper = self._around_call(pipe)
        except BaseException:
            self.restore()
            raise

    def __reduce_ex__(self, _: object) -> Any:
        """A copy would put a second session on the same pipeline."""
        raise TypeError(
            "A session belongs to its pipeline and is neither copied nor pickled: keep session.recipe, and accelerate "
            "the other pipeline with it."
        )

    def __repr__(self) -> str:
        pipe = self.pipe
        if pipe is None:
            return f"<Session of {self.recipe.label}: restored>"
        recipe, state = self.recipe, ", suspended" if self._suspended else ""
        named = f"{recipe.name}: " if recipe.name else ""
        levers = "; ".join(f"{lever} {method}" for lever, method in recipe.methods().items()) or "no lever"
        inactive = [part for part in self._levers if isinstance(part, InactiveLever)]
        told = "; ".join([named + levers, *(f"{part.method} does not act: {part.reason}" for part in inactive)])
        return f"<Session on {self.anatomy.pipeline}: {told}{state}>"

    @property
    def pipe(self) -> Any:
        """The pipeline, or None once restored or gone."""
        return self._pipe() if self._pipe is not None else None

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that the pipeline has during its calls: its own, or those that the recipe puts in their place."""
        return self._swap.parts(components_of(self.pipe))

    def report(self) -> Report:
        """The record of the last pipeline call (or of the one in progress)."""
        return self._report

    def restore(self) -> Any:
        """Gives the pipeline back as it was, bit for bit; returns it. A second call does nothing."""
        pipe, self._pipe = self.pipe, None
        self._detach()
        self._wrappers.clear()
        self._texts = None
        for call in tuple(self._calls):
            call.end()
        self._levers.clear()
        return pipe

    def keep_texts(self, most_bytes: int = MOST_BYTES) -> None:
        """From now on words are encoded once: a call with the same plain arguments, but for its noise, takes what the
        last one with them has encoded. The bits are the same.

            session.keep_texts()
            clips = [pipe("a corgi surfing", generator=torch.Generator().manual_seed(seed)) for seed in range(8)]

        Words are encoded anew where any argument differs, and where an encoder's weights, adapters or settings do (its
        weights are compared by address, torch's count of changes, and 64 of the numbers of each); nothing is kept of
        calls with pictures or embeddings, of encoders in training mode or with weights elsewhere (sequential offload),
        and where an encoder draws random numbers.
        Memory: copies of the encodings, where they were made, `most_bytes` at most; the oldest go first. Ends with the
        session, and rests while that is suspended. It is not worth having where every call has other words.
        """
        if self.pipe is None:
            raise ValueError("The session is restored: accelerate the pipeline again.")
        if self._texts is not None:
            self._texts.detach()
        known = weakref.ref(self)
        self._texts = KeptTexts(self.pipe, most_bytes, lambda: None if (one := known()) is None else one._call_here())
        if self._suspended:
            self._texts.detach()

    def _around_call(self, pipe: Any) -> CallWrapper:
        return CallWrapper(pipe, _PipelineListener(self), self, lambda attributes: self._swap.own(attributes))

    def _call_here(self) -> PipelineCall | None:
        """The call of this session that is in progress in this thread or task."""
        return next((call for call in owners() if isinstance(call, PipelineCall) and call in self._calls), None)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The pipeline without acceleration for the duration of the block: every wrapper is off, not only idle.
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
            with self._swap.swapped_out(pipe):
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

        Calls of the pipeline itself need no such thing. Outside of both, the wrappers pass everything through, so a
        denoiser or scheduler that is shared with another pipeline is not accelerated there. The block belongs to the
        thread or asyncio task that enters it: a generator that stays in it between two values must be advanced from
        there.
        """
        pipe = None if self._suspended else self.pipe
        if pipe is None or self._call_here() is not None:
            yield
            return
        outers = [outer for outer in paused() if isinstance(outer, PipelineCall) and outer in self._calls]
        for outer in outers:
            outer.called_again = True
        with ExitStack() as put_back:
            with CHANGING:
                components = self._follow(pipe, components_of(pipe))
                check_free(components)
                put_back.enter_context(self._swap.swapped_in(pipe))
                for guider in guiders_of(components):
                    put_back.enter_context(_unused(guider))
                call = self._new_call(components)
                self._calls.append(call)
            try:
                call.begin(pipe, components)
                with call.levers.around_call():
                    yield
            except Exception as error:
                call.explain(error)
                raise
            finally:
                self._calls.remove(call)
                call.end()
                for outer in outers[:1]:
                    self._report = outer.report

    def _new_call(self, components: dict[str, Any]) -> PipelineCall:
        """With this session's clock and levers, or with others of their kind while these serve another call."""
        clock, levers = self._clock, self._levers
        if self._calls:
            clock, levers = Clock(), self._built()
        parts = frozenset(id(owner) for owner, *_ in self._heard(components))
        call = PipelineCall(self.recipe.label, parts, self._arguments, self.anatomy, clock, list(levers))
        self._report = call.report
        return call

    def _attach(self, pipe: Any, own: dict[str, Any]) -> dict[str, Any]:
        """Returns the parts that the pipeline has during its calls."""
        methods, self._scheduler_settings = self.recipe.methods(), _settings_of_schedulers(own)
        self._swap = ComponentSwap(own, methods.values())
        components = self._swap.parts(own)
        self.anatomy: Anatomy = inspect(pipe, components)
        for method in methods.values():
            self.anatomy = method.adjust_anatomy(self.anatomy)
        self._levers[:] = self._built()
        self._arguments = {name: Arguments(module) for name, module in denoisers_of(components)}
        # Everywhere, not within a call alone: `_PartListener` itself tells whose call it hears.
        self._wrappers[:] = wrap_methods(self._plan(components), everywhere=True)
        return components

    def _built(self) -> list[Lever]:
        methods = self.recipe.methods()
        return [methods[lever].build(self.anatomy) for lever in CHAIN if lever in methods]

    def _detach(self) -> None:
        if self._texts is not None:
            self._texts.detach()
        unwrap_methods(list(self._wrappers))  # the session keeps them: `_resume` asks what they were over
        if self._call_wrapper is not None:
            self._call_wrapper.detach()

    def _resume(self, pipe: Any) -> None:
        """New wrappers around the same levers; where parts were exchanged meanwhile, the next call attaches anew."""
        plan = list(self._plan(self._swap.parts(components_of(pipe))))
        self._wrappers[:] = wrap_methods(plan, everywhere=True) if self._covered(plan) else []
        self._call_wrapper = self._around_call(pipe)
        if self._texts is not None:
            self._texts.attach(pipe)

    def _covered(self, plan: list[tuple[Any, str, Around]]) -> bool:
        """Whether the wrappers are, or were, over just these methods."""
        return len(plan) == len(self._wrappers) and all(
            wrapper.covers(owner, method) for wrapper, (owner, method, _) in zip(self._wrappers, plan, strict=True)
        )

    def _plan(self, components: dict[str, Any]) -> Iterator[tuple[Any, str, Around]]:
        """Every method that is wrapped: its owner, its name and what stands around it."""
        heard = list(self._heard(components))
        yield from heard
        for owner in {id(owner): owner for owner, *_ in heard}.values():
            yield owner, "__reduce_ex__", plain_copies

    def _heard(self, components: dict[str, Any]) -> Iterator[tuple[Any, str, Around]]:
        """Every method that is listened to."""
        for name, scheduler in schedulers_of(components):
            step = next(method for method in STEPS if hasattr(scheduler, method))
            yield scheduler, "set_timesteps", _PartListener(self, "set_timesteps", scheduler, name)
            yield scheduler, step, _PartListener(self, "step", scheduler, name)
        for name, module in denoisers_of(components):
            yield module, forward_of(module), _PartListener(self, "denoise", module, name)
            if hasattr(module, "cache_context"):
                yield module, "cache_context", _PartListener(self, "cache_context", module, name)
        for name, module in adapters_of(components):
            yield module, forward_of(module), _PartListener(self, "adapt", module, name)

    def _follow(self, pipe: Any, own: dict[str, Any]) -> dict[str, Any]:
        """Re-attaches our wrappers if other code removed or replaced them, took ours off with its own, or has
        exchanged a part (`pipe.scheduler = ...`, `torch.compile`) or changed a scheduler's settings. Returns the parts
        that the pipeline has during this call.
        """
        components = self._swap.parts(own)
        if self._covered(list(self._plan(components))) and self._scheduler_settings == _settings_of_schedulers(own):
            self._wrappers[:] = [wrapper.on_top() for wrapper in self._wrappers]
            return components
        unwrap_methods(self._wrappers)
        return self._attach(pipe, own)

    def _stay_on_top(self, part: Any) -> None:
        """Re-attaches what a denoiser's own call has taken off of it: diffusers' group offloading with streams sees in
        the first call in which order the blocks run, and then puts its hooks on anew.
        """
        for place, wrapper in enumerate(self._wrappers):
            if wrapper.covers(part, wrapper.name) and wrapper.hidden:
                with CHANGING:
                    self._wrappers[place] = wrapper.on_top()

    def _run(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The pipeline is called."""
        with self.running():
            call = self._call_here()
            if call is not None:
                args, kwargs = call.changed_arguments(inner, args, kwargs)
            return inner(*args, **kwargs)


def _settings_of_schedulers(components: dict[str, Any]) -> list[str]:
    """Of the schedulers: what these do hangs on them."""
    return [repr(config_of(scheduler)) for _, scheduler in schedulers_of(components)]


def bare(pipe: Any) -> AbstractContextManager[None]:
    """The pipeline without acceleration for the duration of the block (`Session.suspended`), whether it has any or not.

    For all that must see the pipeline itself: calibrating, searching, measuring.
    """
    session = session_of(pipe)
    return nullcontext() if session is None else session.suspended()


class _PipelineListener:
    """What stands around the pipeline's call. Holds the session weakly, because wrappers must not keep it alive."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)

    def __call__(self, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        session = self._session()
        return inner(*args, **kwargs) if session is None else session._run(inner, args, kwargs)


class _PartListener:
    """What stands around a method of a part. A pipeline call in progress here handles it; calls from elsewhere pass
    through. Holds the session weakly, as above, and the part too.
    """

    __slots__ = ("_event", "_name", "_part", "_session")

    def __init__(self, session: Session, event: str, part: Any, name: str) -> None:
        self._session, self._event, self._part, self._name = weakref.ref(session), event, weakref.ref(part), name

    def __call__(self, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        session = self._session()
        if session is not None and session._calls:
            part = self._part()
            caller = owner_of(part)
            if caller in session._calls:
                result = getattr(caller, self._event)(part, self._name, inner, *args, **kwargs)
                if self._event == "denoise":
                    session._stay_on_top(part)
                return result
            for call in session._calls:
                call.hear_others(self._event, part, self._name, caller)
        return inner(*args, **kwargs)


@contextmanager
def _unused(guider: Any) -> Iterator[None]:
    """diffusers leaves the end of the last run in a guider, and one that had stopped by then asks the next call for no
    negative prompt, which it needs again at the first step.
    """
    with replace_attribute(guider, "_step", None), replace_attribute(guider, "_num_inference_steps", None):
        yield
