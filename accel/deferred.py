"""Outputs that are computed when they are first read, and never if they are not: of what runs in front of a denoiser.

A ControlNet is called before the denoiser, which is given its outputs. Whether the denoiser is evaluated at all, and
for which part of the batch, is decided later, from the denoiser's own inputs. So the ControlNet's call is put off until
something reads what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from operator import is_
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map

from accel.call import rebuilt, structure, tensors

Cut = Callable[[Any], Any]  # takes one part of the batch out of (nested) arguments


class _Layout(NamedTuple):
    """What is known of an output before it is computed."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class DeferredCall:
    """A call that is made when its outputs are read: once, with the arguments and in the autocast that it was asked in.

    count: told the share of the batch that is computed, whenever some is.
    """

    def __init__(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], count: Callable[[float], None]
    ) -> None:
        self._method, self._args, self._kwargs, self._count = method, args, kwargs, count
        self._outputs: list[torch.Tensor] | None = None
        self._parts: dict[tuple[int, int], DeferredCall] = {}
        self._autocast = _autocast(tensors((args, kwargs))[0].device.type)

    def outputs(self) -> list[torch.Tensor]:
        """The tensors that it returns, in order; it is made now, if it has not been before."""
        if self._outputs is None:
            with _as_in(self._autocast):
                self._outputs = tensors(self._method(*self._args, **self._kwargs))
            self._args, self._kwargs = (), {}
            self._count(1.0)
        return self._outputs

    def part(self, index: int, parts: int, cut: Cut) -> DeferredCall | None:
        """The call for one of the equal parts of the batch; None where the whole has been computed."""
        if self._outputs is not None:
            return None
        if (index, parts) not in self._parts:
            arguments = cut(self._args), cut(self._kwargs)
            self._parts[index, parts] = DeferredCall(self._method, *arguments, lambda _: self._count(1.0 / parts))
        return self._parts[index, parts]


class DeferredTensor(torch.Tensor):
    """An output of a deferred call. It has a shape, and no memory: any operation on it makes the call."""

    @staticmethod
    def __new__(cls, source: DeferredCall, index: int, layout: _Layout) -> DeferredTensor:
        size, stride, dtype, device = layout
        made: DeferredTensor = torch.Tensor._make_wrapper_subclass(
            cls, size, strides=stride, dtype=dtype, device=device
        )
        return made

    def __init__(self, source: DeferredCall, index: int, layout: _Layout) -> None:
        self._source, self._index = source, index

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[Any, Any] | None = None
    ) -> Any:
        return func(*tree_map(_read, args), **tree_map(_read, kwargs or {}))

    def read(self) -> torch.Tensor:
        """The output itself."""
        return self._source.outputs()[self._index]

    def part(self, index: int, parts: int, cut: Cut) -> torch.Tensor:
        """One of the equal parts along the first axis; deferred, if this still is."""
        source, rows = self._source.part(index, parts, cut), self.shape[0] // parts
        if source is None:
            return self.read()[index * rows : (index + 1) * rows]
        layout = _Layout((rows, *self.shape[1:]), self.stride(), self.dtype, self.device)
        return DeferredTensor(source, self._index, layout)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"DeferredTensor(shape={tuple(self.shape)}, dtype={self.dtype})"


class Adapter:
    """What runs in front of a denoiser in one pipeline call: puts calls off once it is known what they return."""

    def __init__(self) -> None:
        self.asked, self.computed = 0, 0.0  # calls, and calls of a whole batch that were made
        self._known: dict[object, tuple[Any, list[_Layout]]] = {}

    def __call__(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.asked += 1
        kind = _kind((args, kwargs))
        if kind in self._known:
            template, layouts = self._known[kind]
            call = DeferredCall(method, args, kwargs, self._add)
            return rebuilt(template, [DeferredTensor(call, index, layout) for index, layout in enumerate(layouts)])
        output = method(*args, **kwargs)
        self._add(1.0)
        found = tensors(output)
        if found and tensors((args, kwargs)):
            layouts = [_Layout(tuple(one.shape), one.stride(), one.dtype, one.device) for one in found]
            self._known[kind] = structure(output), layouts
        return output

    def _add(self, share: float) -> None:
        self.computed += share


def read_all(value: Any) -> Any:
    """The same (nested) arguments with all that is deferred in them computed; the same objects where nothing is."""
    if isinstance(value, DeferredTensor):
        return value.read()
    if type(value) in (list, tuple):
        read = [item if type(item) in _PLAIN else read_all(item) for item in value]
        return value if all(map(is_, read, value)) else type(value)(read)
    if type(value) is dict:
        found = {key: item if type(item) in _PLAIN else read_all(item) for key, item in value.items()}
        return value if all(map(is_, found.values(), value.values())) else found
    return value


_PLAIN = frozenset({torch.Tensor, bool, int, float, str, type(None)})  # most arguments, which hold nothing deferred


def _read(value: Any) -> Any:
    return value.read() if isinstance(value, DeferredTensor) else value


def _kind(value: Any) -> object:
    """Equal for arguments of which calls return the same structure and shapes."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, Mapping):
        return tuple((key, _kind(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_kind(item) for item in value)
    return value if isinstance(value, (bool, str, type(None))) else type(value)


def _autocast(device: str) -> tuple[str, bool, torch.dtype]:
    return device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _as_in(autocast: tuple[str, bool, torch.dtype]) -> AbstractContextManager[Any]:
    """The autocast of then, where that of now is another."""
    device, enabled, dtype = autocast
    return nullcontext() if _autocast(device) == autocast else torch.autocast(device, dtype=dtype, enabled=enabled)
