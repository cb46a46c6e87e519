"""Hears what the parts of a pipeline are called for: a listener around each method that says how a run goes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from accel.components import adapters_of, denoisers_of, schedulers_of
from accel.conventions import STEPS
from accel.ownership import CallOwner, owner_of, owners
from accel.patch import CHANGING, Around, Wrapper, forward_of, plain_copies, unwrap_methods, wrap_methods
from accel.pipeline_call import PipelineCall


class PartListeners:
    """The wrappers over one pipeline's schedulers, denoisers and adapters, and the calls of it that are in progress.

    A part is heard whoever calls it, as other pipelines may share it. What belongs to a pipeline call in progress here
    is handled by that; all else passes through.
    """

    def __init__(self) -> None:
        self.calls: list[PipelineCall] = []  # several where a callback calls this pipeline again
        self.wrappers: list[Wrapper] = []

    def call_here(self) -> PipelineCall | None:
        """The call that is in progress in this thread or task."""
        return next(iter(self.ours(owners())), None)

    def ours(self, found: Iterable[CallOwner]) -> list[PipelineCall]:
        """Those that are calls of this pipeline."""
        return [call for call in found if isinstance(call, PipelineCall) and call in self.calls]

    def heard(self, components: Mapping[str, Any]) -> Iterator[tuple[Any, str, Around]]:
        """Every method that is listened to: its owner, its name and the listener. An event is the method of
        `PipelineCall` that handles it.
        """
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

    def attach(self, components: Mapping[str, Any]) -> None:
        # Everywhere, not within a call alone: a listener itself tells whose call it hears.
        self.wrappers[:] = wrap_methods(self._plan(components), everywhere=True)

    def cover(self, components: Mapping[str, Any]) -> bool:
        """Whether the wrappers are, or were, over just the methods of these parts."""
        plan = list(self._plan(components))
        return len(plan) == len(self.wrappers) and all(
            wrapper.covers(owner, method) for wrapper, (owner, method, _) in zip(self.wrappers, plan, strict=True)
        )

    def back_on_top(self) -> None:
        """Re-attaches what other code has removed, or taken off with its own."""
        self.wrappers[:] = [wrapper.on_top() for wrapper in self.wrappers]

    def stay_on_top(self, part: Any) -> None:
        """Re-attaches what a denoiser's own call has taken off of it: diffusers' group offloading with streams sees in
        the first call in which order the blocks run, and then puts its hooks on anew.
        """
        for place, wrapper in enumerate(self.wrappers):
            if wrapper.covers(part, wrapper.name) and wrapper.hidden:
                with CHANGING:
                    self.wrappers[place] = wrapper.on_top()

    def resume(self, components: Mapping[str, Any]) -> None:
        """Puts new wrappers over the methods that it was detached from; none where the parts are others by now."""
        if self.cover(components):
            self.attach(components)
        else:
            self.forget()

    def detach(self) -> None:
        """Takes every wrapper off. What they were over is known until `forget`."""
        unwrap_methods(list(self.wrappers))

    def forget(self) -> None:
        """Lets go of wrappers that are off: one on top of an offload hook leads to the weights."""
        self.wrappers.clear()

    def _plan(self, components: Mapping[str, Any]) -> Iterator[tuple[Any, str, Around]]:
        """Every method that is wrapped: those that are listened to and, of their owners, the one that makes copies."""
        heard = list(self.heard(components))
        yield from heard
        for owner in {id(owner): owner for owner, *_ in heard}.values():
            yield owner, "__reduce_ex__", plain_copies


class _PartListener:
    """What stands around a method of a part. Holds all weakly: wrappers must keep nothing alive."""

    __slots__ = ("_event", "_listeners", "_name", "_part")

    def __init__(self, listeners: PartListeners, event: str, part: Any, name: str) -> None:
        self._listeners, self._event, self._part, self._name = weakref.ref(listeners), event, weakref.ref(part), name

    def __call__(self, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        listeners = self._listeners()
        if listeners is not None and listeners.calls:
            part = self._part()
            caller = owner_of(part)
            if caller in listeners.calls:
                result = getattr(caller, self._event)(part, self._name, inner, *args, **kwargs)
                if self._event == "denoise":
                    listeners.stay_on_top(part)
                return result
            for call in listeners.calls:
                call.hear_others(self._event, part, self._name, caller)
        return inner(*args, **kwargs)
