"""The only module that modifies objects it does not own: reversible layers over methods of single instances, and
attributes that are put back exactly.

No class, module or global is ever modified. A layer sits in the instance's `__dict__`, keeps the signature of what it
covers, holds its owner weakly (so that deleting a pipeline frees its weights at once), survives `copy.deepcopy` of its
owner, and steps aside instead of tearing off what others have put on top of it. Whoever wraps the same method, before
or after, on the instance or on its class, finds and puts back what would be there without us.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import getattr_static, isdatadescriptor
from typing import Any

import torch

from accel import conventions
from accel.call import Arguments
from accel.ownership import AT_WORK, owner_of

Around = Callable[..., Any]  # around(inner, *args, **kwargs)
MISSING: Any = object()

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
                for above in _chain(holder.get(key)):
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


def other_method(owner: Any, name: str) -> Any:
    """What somebody else has put in place of a method of this one object, below our layers or without them; None where
    nothing is.
    """
    found = owner.__dict__.get(name)
    while isinstance(found, Wrapper):
        found = found._previous
    return found


def _itself(method: Any) -> Any:
    return method


def _living(method: Any) -> Any:
    """A method without the detached layers on top of it."""
    while isinstance(method, Wrapper) and method._around is None:
        method = method._previous
    return method


def _chain(method: Any) -> Iterator[Any]:
    """A method and those that it says it wraps, from the top down."""
    while method is not None:
        yield method
        method = getattr(method, "__wrapped__", None)


class CallWrapper:
    """`around(inner, *args, **kwargs)` in place of `pipe(*args, **kwargs)`, for this one pipeline.

    Python looks `__call__` up on the type, so the pipeline object is given a private subclass of its own class, made
    for it alone; the class itself and its other instances are untouched. Nobody gets to see it: `pipe.__class__` is the
    pipeline's own class, and what others read, set, delete, derive from or make with `type(pipe)` is that class too. So
    a library that replaces `type(pipe).__call__` or `pipe.__class__` does to the pipeline what it would do without us,
    ours stays outside of it, and either can go first.
    """

    def __init__(self, pipe: Any, around: Around, session: object) -> None:
        self._around: Around | None = around
        self._pipe = weakref.ref(pipe)
        self._session: Any = session
        self.base: Any = None
        self._stand_over(type(pipe))

    def _stand_over(self, base: Any) -> None:
        pipe, self.base = self._pipe(), base
        _TYPE.__set__(pipe, _private(base, self))

    def run(self, pipe: Any, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        around = self._around if self._pipe() is pipe else None
        if around is not None:
            return around(inner, *args, **kwargs)
        _TYPE.__set__(pipe, _own_class(type(pipe)))  # somebody has kept our class and put it back
        return inner(*args, **kwargs)

    def replace_class(self, kind: Any) -> None:
        """Somebody gives the pipeline another class: ours goes on top of it."""
        _TYPE.__set__(self._pipe(), _own_class(kind))
        self._stand_over(_own_class(kind))

    def detach(self) -> None:
        """Gives the pipeline the class back that it has for everybody else."""
        pipe, self._around, self._session = self._pipe(), None, None
        if pipe is not None and _layer_in(type(pipe)) is self:
            _TYPE.__set__(pipe, self.base)


_TYPE: Any = vars(object)["__class__"]  # what a pipeline's `__class__` is a cover for


def _private(base: Any, layer: CallWrapper) -> Any:
    """A subclass of `base` that calls through the layer and looks like `base`."""

    class Window(type(base)):  # type: ignore[misc]
        def __new__(meta, name: str, bases: tuple[Any, ...], namespace: dict[str, Any], **options: Any) -> Any:
            own = tuple(base if one is private else one for one in bases)
            return types.new_class(name, own, options, lambda body: body.update(namespace))

        def __getattribute__(cls, name: str) -> Any:
            return getattr(base, name)

        def __setattr__(cls, name: str, value: Any) -> None:
            setattr(base, name, value)

        def __delattr__(cls, name: str) -> None:
            delattr(base, name)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return base(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, base)

    @functools.wraps(base.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return layer.run(self, functools.partial(base.__call__, self), args, kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        # A copied or pickled pipeline is a plain one: this class belongs to one object and cannot be imported.
        return copyreg.__newobj__, (base,), *base.__reduce_ex__(self, protocol)[2:]  # type: ignore[attr-defined]

    shown = property(lambda self: base, lambda self, kind: layer.replace_class(kind))
    names = {"__call__": __call__, "__reduce_ex__": __reduce_ex__, "__class__": shown, _LAYER: layer}
    private = type(base).__new__(Window, base.__name__, (base,), names)
    return private


_LAYER = "_accel_layer"


def _layer_in(kind: type) -> CallWrapper | None:
    layer: CallWrapper | None = type.__getattribute__(kind, "__dict__").get(_LAYER)
    return layer


def _own_class(kind: type) -> Any:
    """The class that a private one covers; any other as it is."""
    return kind if _layer_in(kind) is None else type.__getattribute__(kind, "__base__")


class Replacement:
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
def replace_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute of this one object for the duration of the block. What somebody has set in the
    block stays.
    """
    kept = Replacement(owner, name)
    kept.put(value)
    try:
        yield
    finally:
        if kept.now is value:
            kept.put_back()


def exchange_memory(parameter: torch.nn.Parameter, numbers: torch.Tensor) -> None:
    """The same numbers from elsewhere: the parameter stays the object that it is."""
    parameter.data = numbers


@contextmanager
def undo_later(owner: Any, act: Callable[[], object]) -> Iterator[None]:
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
        kept = Replacement(owner, name)
        if earlier is not later and kept.now is later:
            kept.put(earlier)


def session_of(pipe: Any) -> Any:
    """The session attached to this pipeline, or None."""
    layer = _layer_in(type(pipe))
    return layer._session if layer is not None and layer._pipe() is pipe else None


@contextmanager
def listening(module: torch.nn.Module, part: str, hear: Callable[[Any], None]) -> Iterator[None]:
    """Passes to `hear`, for the duration of the block, the tokens that `module` receives (part "input"), the first
    tensor that it returns ("output") or all that it returns ("result").

    A module that is compiled in place is heard from outside: hooks would become part of its graph, recompile it
    whenever they come or go, and could not leave it.
    """
    named, mine = Arguments(module), AT_WORK.get()

    def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if part == "input" and AT_WORK.get() is mine:
            known = Arguments.pick(named.bind(args, kwargs), conventions.IMAGE_TOKENS)
            hear(args[0] if known is None else known)

    def after(output: Any) -> None:
        if part != "input" and AT_WORK.get() is mine:
            hear(output[0] if part == "output" and isinstance(output, tuple) else output)

    def around(inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
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
        remove = Wrapper(module, "_compiled_call_impl", around, everywhere=True).detach
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


def is_graph(module: torch.nn.Module) -> bool:
    """Whether the module is compiled as a whole, in whichever way, so that nothing can be heard or changed within it:
    in place, by `torch.compile(module)`, or by `module.forward = torch.compile(module.forward)`.
    """
    forward = other_method(module, "forward") or getattr(type(module), "forward", None)
    return is_compiled(module) or hasattr(module, "_orig_mod") or is_compiled_function(forward)


def is_compiled_function(method: Any) -> bool:
    """Whether a function or method is `torch.compile`'s, or says that it wraps one."""
    return any(_is_of_the_compiler(each) for each in _chain(method))


def _is_of_the_compiler(method: Any) -> bool:
    """Those that are kept from the compiler (`torch.compiler.disable`) are marked as well."""
    marked = hasattr(method, "_torchdynamo_orig_callable") and not isinstance(method, Wrapper)
    return marked and not getattr(method, "_torchdynamo_disable", False)


def reachable(denoiser: torch.nn.Module, path: str) -> torch.nn.Module | None:
    """The module at a dotted path, or None where it does not exist or one of those above it is compiled."""
    module: Any = denoiser
    for part in path.split("."):
        if is_graph(module):
            return None
        module = getattr(module, part, None)
    return module if isinstance(module, torch.nn.Module) else None
