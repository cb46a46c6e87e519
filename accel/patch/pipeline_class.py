"""A layer over the call of one pipeline, by a class of its own, and the session that the pipeline has through it."""

from __future__ import annotations

import copyreg
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

from accel.patch.copies import without_layers
from accel.patch.method import Around

_TYPE: Any = vars(object)["__class__"]  # what a pipeline's `__class__` is a cover for
_LAYER = "_accel_layer"  # under this name the private class holds its layer


class CallWrapper:
    """`around(inner, *args, **kwargs)` in place of `pipe(*args, **kwargs)`, for this one pipeline.

    Python looks `__call__` up on the type, so the pipeline object is given a private subclass of its own class, made
    for it alone; the class itself and its other instances are untouched. Nobody gets to see it: `pipe.__class__` is the
    pipeline's own class, and what others read, set, delete, derive from or make with `type(pipe)` is that class too. So
    a library that replaces `type(pipe).__call__` or `pipe.__class__` does to the pipeline what it would do without us,
    ours stays outside of it, and either can go first.
    """

    def __init__(
        self, pipe: Any, around: Around, session: object, own: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ) -> None:
        """own: which attributes the pipeline has outside of its calls, made of those that it has now."""
        self._around: Around | None = around
        self._own = own
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

    def plain(self, state: Any) -> Any:
        """The attributes that a copy of the pipeline gets."""
        return self._own(without_layers(state)) if isinstance(state, dict) else state

    def detach(self) -> None:
        """Gives the pipeline the class back that it has for everybody else."""
        pipe, self._around, self._session, self._own = self._pipe(), None, None, dict
        if pipe is not None and _layer_in(type(pipe)) is self:
            _TYPE.__set__(pipe, self.base)


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
        # A copied or pickled pipeline is a plain one: this class belongs to one object and cannot be imported, and a
        # layer over one of its methods that a shallow copy shared would lead to the first pipeline.
        state, *rest = base.__reduce_ex__(self, protocol)[2:]
        return copyreg.__newobj__, (base,), layer.plain(state), *rest  # type: ignore[attr-defined]

    shown = property(lambda self: base, lambda self, kind: layer.replace_class(kind))
    names = {"__call__": __call__, "__reduce_ex__": __reduce_ex__, "__class__": shown, _LAYER: layer}
    private = type(base).__new__(Window, base.__name__, (base,), names)
    return private


def _layer_in(kind: type) -> CallWrapper | None:
    layer: CallWrapper | None = type.__getattribute__(kind, "__dict__").get(_LAYER)
    return layer


def _own_class(kind: type) -> Any:
    """The class that a private one covers; any other as it is."""
    return kind if _layer_in(kind) is None else type.__getattribute__(kind, "__base__")


def session_of(pipe: Any) -> Any:
    """The session attached to this pipeline, or None."""
    layer = _layer_in(type(pipe))
    return layer._session if layer is not None and layer._pipe() is pipe else None
