"""Other parts in place of a pipeline's own, for the duration of each of its calls."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from accel.anatomy import components_of
from accel.method import Method


class Exchange:
    """The parts that the methods of a recipe exchange (`Method.exchanged`). They are made once, so that the layers over
    them stay, and stand in the pipeline only while it runs: between calls it has the very objects that it had before.

    Parts are put straight into the pipeline's `__dict__`, because diffusers' pipelines rewrite their configuration
    when an attribute is set, and that would stay.
    """

    def __init__(self, pipe: Any, methods: Iterable[Method]) -> None:
        components = components_of(pipe)
        self._others: dict[str, Any] = {}
        for method in methods:
            self._others |= method.exchanged(components)
        self._own = {name: weakref.ref(components[name]) for name in self._others}

    def parts(self, components: Mapping[str, Any]) -> dict[str, Any]:
        """The pipeline's parts as they are during a call; its own where it has been given others since."""
        fits = all(components.get(name) is own() for name, own in self._own.items())
        return dict(components) | (self._others if fits else {})

    @contextmanager
    def made(self, pipe: Any) -> Iterator[None]:
        own = {name: getattr(pipe, name) for name in self._others}
        try:
            for name, other in self._others.items():
                _put(pipe, name, other)
            yield
        finally:
            for name, part in own.items():
                if getattr(pipe, name) is self._others[name]:  # and not one that somebody has set within the call
                    _put(pipe, name, part)


def _put(pipe: Any, name: str, part: Any) -> None:
    if name in vars(pipe):
        vars(pipe)[name] = part
    else:
        setattr(pipe, name, part)
