"""A layer over one method of one object, and how it comes off again."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from accel.ownership import AT_WORK, owner_of

Around = Callable[..., Any]  # around(inner, *args, **kwargs)

CHANGING = threading.RLock()
"""Held while layers come and go: several threads may put theirs on one module at once."""


class Wrapper:
    """`around(inner, *args, **kwargs)` in place of `owner.name(*args, **kwargs)`, for this one object.

    A layer that is put on while a pipeline call is in progress is a part of that call: it acts within denoiser calls
    of its own and lets those of other threads and pipelines through. `everywhere` makes it act always.
    `__slots__` matter: `functools.update_wrapper` copies the `__dict__` of what it wraps, which would leave references
    to our session inside other libraries' wrappers.
    """

    __slots__ = ("__weakref__", "_around", "_of", "_owner", "_previous", "name")

    def __init__(self, owner: Any, name: str, around: Around, *, everywhere: bool = False) -> None:
        self._owner: weakref.ref[Any] = weakref.ref(owner)
        self._around: Around | None = around
        self._of = None if everywhere else owner_of()
        self.name = name
        with CHANGING:
            self._previous: Callable[..., Any] | None = _living(owner.__dict__.get(name))
            owner.__dict__[name] = self

    @property
    def inner(self) -> Callable[..., Any]:
        """The method below this layer."""
        if self._previous is not None:
            self._previous = _living(self._previous)
        if self._previous is not None:
            return self._previous
        owner = self._owner()
        own = getattr(type(owner), self.name, None)
        if own is None:  # torch.compile's wrapper forwards what it does not have
            return owner.__getattr__(self.name)  # type: ignore[union-attr, no-any-return]
        method: Callable[..., Any] = own.__get__(owner)
        return method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        around = self._around
        if around is None:
            self._leave()
        if around is None or (self._of is not None and self._of is not AT_WORK.get()):
            return self.inner(*args, **kwargs)
        return around(self.inner, *args, **kwargs)

    def __get__(self, instance: object, kind: type | None = None) -> Any:
        """Bound anew by those who take a method off an object and put it back (cache-dit), as a method would be."""
        return self.inner if self._around is None else self

    # Pipelines inspect signatures of scheduler methods (without it CogVideoX drops its generator).
    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.inner

    @property
    def __name__(self) -> str:
        return self.name

    # torch.compile takes what is below, by its own marks for that: this layer would be a part of the graph.
    @property
    def _torchdynamo_orig_callable(self) -> Callable[..., Any]:
        return self.inner

    @property
    def _torchdynamo_wrapper_id(self) -> int:
        return id(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or pickled owner gets its own plain method: a copied layer would go on calling the original."""
        return _itself, (self.inner,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The same, and a copy of the owner's `__dict__` alone, which some pipelines write back into the owner, gets a
        layer that passes everything through and is taken out with this one.
        """
        owner = self._owner()
        if owner is None or id(owner) in memo:
            return copy.deepcopy(self.inner, memo)
        other = Wrapper.__new__(Wrapper)
        other._owner, other._around, other._of = self._owner, None, None
        other._previous, other.name = self._previous, self.name
        return other

    def covers(self, owner: Any, name: str) -> bool:
        """Whether this is the layer over that very method."""
        return self._owner() is owner and self.name == name

    @property
    def hidden(self) -> bool:
        """Whether something else is on top of it, or in its place."""
        owner = self._owner()
        return owner is not None and owner.__dict__.get(self.name) is not self

    def on_top(self) -> Wrapper:
        """This layer if it is on top, apart from others of ours, else a new one on top.

        Asked at the start of each run, and where a denoiser's call has changed its own methods, because others take
        their wrappers off and ours with them, or put some on that lead nowhere near it. It is a new object, because
        somebody's closure may still lead to this one, and a layer that is above and below it would call itself for
        ever.
        """
        owner, around, everywhere = self._owner(), self._around, self._of is None
        if owner is None or around is None:
            return self
        found = owner.__dict__.get(self.name)
        while isinstance(found, Wrapper) and found is not self:
            found = found._previous
        on_top: bool = found is self
        if on_top:
            return self
        self.detach()
        return Wrapper(owner, self.name, around, everywhere=everywhere)

    def detach(self) -> None:
        """Takes the layer out: exactly wherever it can be found. Where it cannot, because somebody's closure leads to
        it, it passes calls through, and leaves with the first call after it was put back.
        """
        owner, self._around, self._of = self._owner(), None, None
        if owner is None:
            return
        with CHANGING:
            for holder, key in self._places(owner):
                for above in chain(holder.get(key)):
                    if not isinstance(above, Wrapper) and getattr(above, "__dict__", {}).get("__wrapped__") is self:
                        above.__dict__["__wrapped__"] = self.inner
                if holder.get(key) is self or self._is_copied(holder.get(key)):
                    holder[key] = self.inner
                    if self._previous is None and holder is owner.__dict__ and key == self.name:
                        del holder[key]

    def _leave(self) -> None:
        owner = self._owner()
        if owner is not None and owner.__dict__.get(self.name) is self:
            self.detach()

    def _is_copied(self, other: Any) -> bool:
        alike = isinstance(other, Wrapper) and other._owner is self._owner and other.name == self.name
        return alike and other._around is None and other._previous is self._previous

    def _places(self, owner: Any) -> Iterator[tuple[dict[str, Any], str]]:
        """Where this method, or what others have put it under, is kept."""
        yield owner.__dict__, self.name
        if self.name == "forward":
            yield owner.__dict__, "_old_forward"  # accelerate's hooks reinstate from there
            for reference in getattr(owner.__dict__.get("_diffusers_hook"), "_fn_refs", ()):
                yield vars(reference), "forward"
                yield vars(reference), "original_forward"


def wrap_methods(plan: Iterable[tuple[Any, str, Around]], *, everywhere: bool = False) -> list[Wrapper]:
    """Wraps each of these methods (owner, name, the function around it): all of them or, where one fails, none."""
    with ExitStack() as undo:
        layers = []
        for owner, name, around in plan:
            layers.append(Wrapper(owner, name, around, everywhere=everywhere))
            undo.callback(layers[-1].detach)
        undo.pop_all()
        return layers


def unwrap_methods(wrappers: list[Wrapper]) -> None:
    """Takes these wrappers out, the last one first, and empties the list."""
    for wrapper in reversed(wrappers):
        wrapper.detach()
    wrappers.clear()


def other_method(owner: Any, name: str) -> Any:
    """What somebody else has put in place of a method of this one object, below our layers or without them; None where
    nothing is.
    """
    return below_layers(owner.__dict__.get(name))


def below_layers(value: Any) -> Any:
    """What is kept below our layers, or the value itself; None where nothing is but the class's own method."""
    while isinstance(value, Wrapper):
        value = value._previous
    return value


def _itself(method: Any) -> Any:
    return method


def _living(method: Any) -> Any:
    """A method without the detached layers on top of it."""
    while isinstance(method, Wrapper) and method._around is None:
        method = method._previous
    return method


def chain(method: Any) -> Iterator[Any]:
    """A method and those that it says it wraps, from the top down."""
    while method is not None:
        yield method
        method = getattr(method, "__wrapped__", None)
