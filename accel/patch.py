"""The only code that changes somebody else's object: reversible layers over methods of single instances.

No class, module or global is ever modified. A layer sits in the instance's `__dict__`, keeps the signature of what it
covers, holds its owner weakly (so that deleting a pipeline frees its weights at once), survives `copy.deepcopy` of its
owner, and steps aside instead of tearing off what others have put on top of it.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Around = Callable[..., Any]  # around(inner, *args, **kwargs)

# accelerate keeps the method that it covers under this name and reinstates it from there.
_ACCELERATE_SLOT = "_old_forward"


class Layer:
    """`around(inner, *args, **kwargs)` in place of `owner.name(*args, **kwargs)`, for this one object.

    `__slots__` matter: `functools.update_wrapper` copies the `__dict__` of what it wraps, which would leave references
    to our session inside other libraries' wrappers.
    """

    __slots__ = ("__weakref__", "_around", "_owner", "_previous", "name")

    def __init__(self, owner: Any, name: str, around: Around) -> None:
        self._owner: weakref.ref[Any] = weakref.ref(owner)
        self._around: weakref.WeakMethod[Any] | Around | None = (
            weakref.WeakMethod(around) if hasattr(around, "__self__") else around
        )
        self._previous: Any = None
        self.name = name
        self.attach()

    @property
    def inner(self) -> Callable[..., Any]:
        """The method below this layer."""
        if self._previous is not None:
            return self._previous
        owner = self._owner()
        return getattr(type(owner), self.name).__get__(owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        around = self._around() if isinstance(self._around, weakref.WeakMethod) else self._around
        if around is None:
            return self.inner(*args, **kwargs)
        return around(self.inner, *args, **kwargs)

    # Pipelines inspect signatures of scheduler methods (without it CogVideoX drops its generator).
    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.inner

    @property
    def __name__(self) -> str:
        return self.name

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copied owner gets its own plain method: a copied layer would go on calling the original object."""
        duplicate = memo.get(id(self._owner()))
        if duplicate is None:
            return self
        if self._previous is not None:
            return copy.deepcopy(self._previous, memo)
        return getattr(type(duplicate), self.name).__get__(duplicate)

    def attach(self) -> None:
        """Puts the layer on top unless it is still somewhere below.

        Called again at the start of each run, because offload hooks are removed and put back after every pipeline
        call, which drops layers that were attached on top of them.
        """
        owner = self._owner()
        if owner is None or self._reachable(owner):
            return
        self._previous = owner.__dict__.get(self.name)
        owner.__dict__[self.name] = self

    def detach(self) -> None:
        """Takes the layer out: exactly where it is on top or under accelerate's hook, else as a pass-through."""
        owner, self._around = self._owner(), None
        if owner is None:
            return
        for slot in (self.name, _ACCELERATE_SLOT):
            if owner.__dict__.get(slot) is not self:
                continue
            if self._previous is not None:
                owner.__dict__[slot] = self._previous
            elif slot == self.name:
                del owner.__dict__[slot]
            else:
                owner.__dict__[slot] = getattr(type(owner), self.name).__get__(owner)

    def _reachable(self, owner: Any) -> bool:
        below = owner.__dict__.get(self.name)
        while below is not None:
            if below is self:
                return True
            below = getattr(below, "__wrapped__", None)
        return owner.__dict__.get(_ACCELERATE_SLOT) is self


class CallLayer:
    """`around(inner, *args, **kwargs)` in place of `pipe(*args, **kwargs)`, for this one pipeline.

    Python looks `__call__` up on the type, so the pipeline object is given a private subclass of its own class, made
    for it alone and with the same name; the class itself and its other instances are untouched.
    """

    def __init__(self, pipe: Any, around: Around, session: object) -> None:
        base = type(pipe)
        layer = weakref.ref(self)
        self._around: Around | None = around
        self._pipe = weakref.ref(pipe)
        self._base = base

        @functools.wraps(base.__call__)
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            inner = functools.partial(base.__call__, self)
            alive = layer()
            # A shallow copy of the pipeline shares this class but is not the pipeline that was accelerated.
            if alive is None or alive._around is None or alive._pipe() is not self:
                return inner(*args, **kwargs)
            return alive._around(inner, *args, **kwargs)

        names = {"__call__": __call__, "__module__": base.__module__, "__qualname__": base.__qualname__}
        self._subclass = type(base.__name__, (base,), names | {"__doc__": base.__doc__, "_accel_session": session})
        pipe.__class__ = self._subclass

    def detach(self) -> None:
        """Gives the pipeline its own class back (or leaves a pass-through if somebody replaced the class again)."""
        pipe, self._around = self._pipe(), None
        self._subclass._accel_session = None  # type: ignore[attr-defined]
        if pipe is not None and type(pipe) is self._subclass:
            pipe.__class__ = self._base


def session_of(pipe: Any) -> Any:
    """The session attached to this pipeline, or None."""
    session = getattr(type(pipe), "_accel_session", None)
    return session if session is not None and session.pipe is pipe else None


@contextmanager
def listening(module: torch.nn.Module, part: str, hear: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Passes what `module` receives (part "input") or returns ("output") to `hear`, for the duration of the block."""

    def on_input(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hear(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    def on_output(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> None:
        hear(output[0] if isinstance(output, tuple) else output)

    handle = (
        module.register_forward_pre_hook(on_input, with_kwargs=True)
        if part == "input"
        else module.register_forward_hook(on_output)
    )
    try:
        yield
    finally:
        handle.remove()
