"""The only code that changes somebody else's object: reversible layers over methods of single instances, and attributes
that are put back exactly.

No class, module or global is ever modified. A layer sits in the instance's `__dict__`, keeps the signature of what it
covers, holds its owner weakly (so that deleting a pipeline frees its weights at once), survives `copy.deepcopy` of its
owner, and steps aside instead of tearing off what others have put on top of it.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import getattr_static, isdatadescriptor
from typing import Any

import torch

from accel import families
from accel.calls import Arguments

Around = Callable[..., Any]  # around(inner, *args, **kwargs)
MISSING: Any = object()


class Layer:
    """`around(inner, *args, **kwargs)` in place of `owner.name(*args, **kwargs)`, for this one object.

    `__slots__` matter: `functools.update_wrapper` copies the `__dict__` of what it wraps, which would leave references
    to our session inside other libraries' wrappers.
    """

    __slots__ = ("__weakref__", "_around", "_owner", "_previous", "name")

    def __init__(self, owner: Any, name: str, around: Around) -> None:
        self._owner: weakref.ref[Any] = weakref.ref(owner)
        self._around: Around | None = around
        self._previous: Callable[..., Any] | None = owner.__dict__.get(name)
        self.name = name
        owner.__dict__[name] = self

    @property
    def inner(self) -> Callable[..., Any]:
        """The method below this layer."""
        if self._previous is not None:
            return self._previous
        owner = self._owner()
        if hasattr(type(owner), self.name):
            own: Callable[..., Any] = getattr(type(owner), self.name).__get__(owner)
        else:  # torch.compile's wrapper forwards what it does not have
            own = owner.__getattr__(self.name)  # type: ignore[union-attr]
        return own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        around = self._around
        return self.inner(*args, **kwargs) if around is None else around(self.inner, *args, **kwargs)

    # Pipelines inspect signatures of scheduler methods (without it CogVideoX drops its generator).
    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.inner

    @property
    def __name__(self) -> str:
        return self.name

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
        other = Layer.__new__(Layer)
        other._owner, other._around, other._previous, other.name = self._owner, None, self._previous, self.name
        return other

    def covers(self, owner: Any, name: str) -> bool:
        """Whether this is the layer over that very method."""
        return self._owner() is owner and self.name == name

    def renewed(self) -> Layer:
        """This layer if calls still reach it, else a new one on top.

        Asked at the start of each run, because offload hooks are removed and put back after every pipeline call, which
        drops layers that were attached on top of them. It is a new object, because somebody's closure, which nobody can
        look into, may still lead to this one, and a layer that is above and below it would call itself for ever.
        """
        owner, around = self._owner(), self._around
        if owner is None or around is None:
            return self
        if any(self in _chain(holder.get(key)) for holder, key in self._places(owner)):
            return self
        self.detach()
        return Layer(owner, self.name, around)

    def detach(self) -> None:
        """Takes the layer out: exactly wherever it can be found, else it stays as a pass-through."""
        owner, self._around = self._owner(), None
        if owner is None:
            return
        for holder, key in self._places(owner):
            for above in _chain(holder.get(key)):
                if isinstance(above, Layer):
                    above._previous = self._previous if above._previous is self else above._previous
                elif getattr(above, "__dict__", {}).get("__wrapped__") is self:
                    above.__dict__["__wrapped__"] = self.inner
            if holder.get(key) is self or self._is_copied(holder.get(key)):
                holder[key] = self.inner
                if self._previous is None and holder is owner.__dict__ and key == self.name:
                    del holder[key]

    def _is_copied(self, other: Any) -> bool:
        alike = isinstance(other, Layer) and other._owner is self._owner and other.name == self.name
        return alike and other._around is None and other._previous is self._previous

    def _places(self, owner: Any) -> Iterator[tuple[dict[str, Any], str]]:
        """Where this method, or what others have put it under, is kept."""
        yield owner.__dict__, self.name
        if self.name == "forward":
            yield owner.__dict__, "_old_forward"  # accelerate's hooks reinstate from there
            for reference in getattr(owner.__dict__.get("_diffusers_hook"), "_fn_refs", ()):
                yield vars(reference), "forward"
                yield vars(reference), "original_forward"


def layered(plan: Iterable[tuple[Any, str, Around]]) -> list[Layer]:
    """A layer over each of these methods (owner, name, what stands around it): over all or, where one fails, none."""
    with ExitStack() as undo:
        layers = []
        for owner, name, around in plan:
            layers.append(Layer(owner, name, around))
            undo.callback(layers[-1].detach)
        undo.pop_all()
        return layers


def _itself(method: Any) -> Any:
    return method


def _blank(kind: Any) -> Any:
    return kind.__new__(kind)


def _chain(method: Any) -> Iterator[Any]:
    """A method and those that it says it wraps, from the top down."""
    while method is not None:
        yield method
        method = getattr(method, "__wrapped__", None)


class CallLayer:
    """`around(inner, *args, **kwargs)` in place of `pipe(*args, **kwargs)`, for this one pipeline.

    Python looks `__call__` up on the type, so the pipeline object is given a private subclass of its own class, made
    for it alone and with the same name; the class itself and its other instances are untouched.
    """

    def __init__(self, pipe: Any, around: Around, session: object) -> None:
        base: Any = type(pipe)
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

        def __reduce_ex__(self: Any, protocol: Any) -> Any:
            # A copied or pickled pipeline is a plain one: this class belongs to one object and cannot be imported.
            return _blank, (base,), *base.__reduce_ex__(self, protocol)[2:]

        names = {"__call__": __call__, "__module__": base.__module__, "__qualname__": base.__qualname__}
        names |= {"__doc__": base.__doc__, "__reduce_ex__": __reduce_ex__, "_accel_session": session}
        self._subclass = type(base.__name__, (base,), names)
        pipe.__class__ = self._subclass

    def detach(self) -> None:
        """Gives the pipeline its own class back (or leaves a pass-through if somebody replaced the class again)."""
        pipe, self._around = self._pipe(), None
        self._subclass._accel_session = None  # type: ignore[attr-defined]
        if pipe is not None and type(pipe) is self._subclass:
            pipe.__class__ = self._base


class Kept:
    """What an attribute of one object is now, or that it has none, so that it can be put back exactly.

    It is written straight to the object's `__dict__`, because diffusers' pipelines rewrite their configuration when an
    attribute is set, and that would stay. Properties, and what else is kept elsewhere, are set.
    """

    __slots__ = ("_before", "_elsewhere", "name", "owner")

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        known = getattr_static(type(owner), name, MISSING)
        found = isdatadescriptor(known) or (known is MISSING and hasattr(owner, name))
        self._elsewhere = found and name not in vars(owner)
        self._before = self.now

    @property
    def now(self) -> Any:
        """The object's own attribute, or `MISSING`."""
        return getattr(self.owner, self.name) if self._elsewhere else vars(self.owner).get(self.name, MISSING)

    def put(self, value: Any) -> None:
        if self._elsewhere:
            setattr(self.owner, self.name, value)
        elif value is MISSING:
            vars(self.owner).pop(self.name, None)
        else:
            vars(self.owner)[self.name] = value

    def put_back(self) -> None:
        self.put(self._before)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute of this one object for the duration of the block. What somebody has set in the
    block stays.
    """
    kept = Kept(owner, name)
    kept.put(value)
    try:
        yield
    finally:
        if kept.now is value:
            kept.put_back()


@contextmanager
def undone(owner: Any, act: Callable[[], object]) -> Iterator[None]:
    """Does `act()`, and takes back at the end of the block what it has changed among the attributes of `owner`. What
    somebody has set in the block stays.
    """
    before = dict(vars(owner))
    try:
        act()
    except BaseException:
        _take_back(owner, before, vars(owner))
        raise
    after = dict(vars(owner))
    try:
        yield
    finally:
        _take_back(owner, before, after)


def _take_back(owner: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in before.keys() | after.keys():
        earlier, later = before.get(name, MISSING), after.get(name, MISSING)
        kept = Kept(owner, name)
        if earlier is not later and kept.now is later:
            kept.put(earlier)


def session_of(pipe: Any) -> Any:
    """The session attached to this pipeline, or None."""
    session = getattr(type(pipe), "_accel_session", None)
    return session if session is not None and session.pipe is pipe else None


@contextmanager
def listening(module: torch.nn.Module, part: str, hear: Callable[[Any], None]) -> Iterator[None]:
    """Passes to `hear`, for the duration of the block, the tokens that `module` receives (part "input"), the first
    tensor that it returns ("output") or all that it returns ("result").

    A module that is compiled in place is heard from outside: hooks would become part of its graph, recompile it
    whenever they come or go, and could not leave it.
    """
    named = Arguments(module.forward)

    def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if part == "input":
            known = Arguments.pick(named.bind(args, kwargs), families.IMAGE_TOKENS)
            hear(args[0] if known is None else known)

    def after(output: Any) -> None:
        if part != "input":
            hear(output[0] if part == "output" and isinstance(output, tuple) else output)

    def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before(args, kwargs)
        output = inner(*args, **kwargs)
        after(output)
        return output

    def on_input(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before(args, kwargs)

    def on_output(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> None:
        after(output)

    remove: Callable[[], None]
    if is_compiled(module):
        remove = Layer(module, "_compiled_call_impl", around).detach
    elif part == "input":
        remove = module.register_forward_pre_hook(on_input, with_kwargs=True).remove
    else:
        remove = module.register_forward_hook(on_output).remove
    try:
        yield
    finally:
        remove()


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether the module was compiled in place (`module.compile()`), which keeps its class and its `forward`."""
    return getattr(module, "_compiled_call_impl", None) is not None


def reachable(denoiser: torch.nn.Module, path: str) -> torch.nn.Module | None:
    """The module at a dotted path, or None where it does not exist or one of those above it is compiled."""
    module: Any = denoiser
    for part in path.split("."):
        if is_compiled(module) or hasattr(module, "_orig_mod"):
            return None
        module = getattr(module, part, None)
    return module if isinstance(module, torch.nn.Module) else None
