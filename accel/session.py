"""A Session is a recipe attached to one pipeline: installs the wrappers, runs the levers, keeps the report, undoes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from accel.anatomy import Anatomy
from accel.clock import Clock
from accel.components import components_of
from accel.fitted_recipe import FittedRecipe
from accel.kept_texts import KeptTexts
from accel.lever import InactiveLever, Lever
from accel.ownership import paused
from accel.part_listeners import PartListeners
from accel.patch import CHANGING, CallWrapper, session_of
from accel.pipeline_call import PipelineCall
from accel.recipe import Recipe
from accel.report import Report
from accel.stateful_parts import check_free, unused_guiders
from accel.text_cache import MOST_BYTES


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
        self._listeners = PartListeners()
        self._levers: list[Lever] = []
        # A session that somebody keeps must not keep the weights, which wrappers and levers may hold.
        forget, clear = self._listeners.forget, self._levers.clear
        self._pipe: weakref.ref[Any] | None = weakref.ref(pipe, lambda _: (forget(), clear()))
        self._clock = Clock()
        self._report, self._suspended = Report(recipe.label), False
        self._call_wrapper: CallWrapper | None = None
        self._texts: KeptTexts | None = None
        try:
            self._attach(pipe, components)
            self._report.notes += self.anatomy.caveats
            self._call_wrapper = CallWrapper(pipe, self._run, self, self._own_attributes)
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
    def anatomy(self) -> Anatomy:
        """What the pipeline consists of during its calls."""
        return self._fitted.anatomy

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that the pipeline has during its calls: its own, or those that the recipe puts in their place."""
        return self._fitted.swap.parts(components_of(self.pipe))

    def report(self) -> Report:
        """The record of the last pipeline call (or of the one in progress)."""
        return self._report

    def restore(self) -> Any:
        """Gives the pipeline back as it was, bit for bit; returns it. A second call does nothing."""
        pipe, self._pipe = self.pipe, None
        self._detach()
        self._listeners.forget()
        self._texts = None
        for call in tuple(self._listeners.calls):
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
        self._texts = KeptTexts(self.pipe, most_bytes, self._listeners.call_here)
        if self._suspended:
            self._texts.detach()

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
            with self._fitted.swap.swapped_out(pipe):
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
        if pipe is None or self._listeners.call_here() is not None:
            yield
            return
        outers = self._listeners.ours(paused())
        for outer in outers:
            outer.called_again = True
        with ExitStack() as put_back:
            with CHANGING:
                components = self._follow(pipe, components_of(pipe))
                check_free(components)
                put_back.enter_context(self._fitted.swap.swapped_in(pipe))
                put_back.enter_context(unused_guiders(components))
                call = self._new_call(components)
                self._listeners.calls.append(call)
            try:
                with call.in_progress(pipe, components):
                    yield
            finally:
                self._listeners.calls.remove(call)
                if outers:
                    self._report = outers[0].report

    def _new_call(self, components: dict[str, Any]) -> PipelineCall:
        """With this session's clock and levers, or with others of their kind while these serve another call."""
        clock, levers = self._clock, self._levers
        if self._listeners.calls:
            clock, levers = Clock(), self._fitted.levers()
        parts = frozenset(id(owner) for owner, *_ in self._listeners.heard(components))
        call = PipelineCall(self._fitted, parts, clock, list(levers))
        self._report = call.report
        return call

    def _attach(self, pipe: Any, own: dict[str, Any]) -> dict[str, Any]:
        """Returns the parts that the pipeline has during its calls."""
        self._fitted = FittedRecipe(pipe, self.recipe, own)
        components = self._fitted.swap.parts(own)
        self._levers[:] = self._fitted.levers()
        self._listeners.attach(components)
        return components

    def _detach(self) -> None:
        if self._texts is not None:
            self._texts.detach()
        self._listeners.detach()
        if self._call_wrapper is not None:
            self._call_wrapper.detach()

    def _resume(self, pipe: Any) -> None:
        """New wrappers around the same levers; where parts were exchanged meanwhile, the next call attaches anew."""
        self._listeners.resume(self._fitted.swap.parts(components_of(pipe)))
        self._call_wrapper = CallWrapper(pipe, self._run, self, self._own_attributes)
        if self._texts is not None:
            self._texts.attach(pipe)

    def _follow(self, pipe: Any, own: dict[str, Any]) -> dict[str, Any]:
        """Re-attaches our wrappers if other code removed or replaced them, took ours off with its own, or has
        exchanged a part (`pipe.scheduler = ...`, `torch.compile`) or changed a scheduler's settings. Returns the parts
        that the pipeline has during this call.
        """
        components = self._fitted.swap.parts(own)
        if self._listeners.cover(components) and self._fitted.still_fits(own):
            self._listeners.back_on_top()
            return components
        self._listeners.detach()
        self._listeners.forget()
        return self._attach(pipe, own)

    def _own_attributes(self, attributes: dict[str, Any]) -> dict[str, Any]:
        return self._fitted.swap.own(attributes)

    def _run(self, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The pipeline is called."""
        with self.running():
            call = self._listeners.call_here()
            if call is not None:
                args, kwargs = call.changed_arguments(inner, args, kwargs)
            return inner(*args, **kwargs)


def bare(pipe: Any) -> AbstractContextManager[None]:
    """The pipeline without acceleration for the duration of the block (`Session.suspended`), whether it has any or not.

    For all that must see the pipeline itself: calibrating, searching, measuring.
    """
    session = session_of(pipe)
    return nullcontext() if session is None else session.suspended()
