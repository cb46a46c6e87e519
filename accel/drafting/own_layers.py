"""Layers over the parts of a pipeline that hear the calls of one run and let everybody else's through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from accel.patch import Around, unwrap_methods, wrap_methods

Held = TypeVar("Held")


@dataclass
class Slot(Generic[Held]):
    """What the layers of several runs, which stay on between them, are asked to do in the present one."""

    value: Held


_RUNS: ContextVar[tuple[object, ...]] = ContextVar("accel_draft_runs", default=())


@contextmanager
def own_layers(plan: Iterable[tuple[Any, str, Around]]) -> Iterator[None]:
    """Puts `around(inner, *args, **kwargs)` over each of these methods for the duration of the block, for calls that
    this thread or asyncio task makes: weights may be shared with pipelines in others.
    """
    run = object()
    layers = wrap_methods(((owner, name, partial(_only_in, run, around)) for owner, name, around in plan))
    before = _RUNS.set((*_RUNS.get(), run))
    try:
        yield
    finally:
        _RUNS.reset(before)
        unwrap_methods(layers)


def _only_in(run: object, around: Around, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return around(inner, *args, **kwargs) if run in _RUNS.get() else inner(*args, **kwargs)
