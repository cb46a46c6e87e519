"""Puts other components in place of a pipeline's own, for the duration of each of its calls."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from accel.method import Method
from accel.patch import replace_attribute


class ComponentSwap:
    """The parts that the methods of a recipe exchange (`Method.swapped_components`). They are made once, so that the
    layers over them stay, and stand in the pipeline only while it runs: between calls it has the very objects that it
    had before, or one that somebody has set within the call.
    """

    def __init__(self, components: Mapping[str, Any], methods: Iterable[Method]) -> None:
        self._others: dict[str, Any] = {}
        for method in methods:
            self._others |= method.swapped_components(components)
        self._own = {name: weakref.ref(components[name]) for name in self._others}

    def parts(self, components: Mapping[str, Any]) -> dict[str, Any]:
        """The pipeline's parts as they are during a call; its own where it has been given others since."""
        fits = all(components.get(name) is own() for name, own in self._own.items())
        return dict(components) | (self._others if fits else {})

    def own(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """A pipeline's attributes with its own parts, also in the middle of a call."""
        kept = {name: own() for name, own in self._own.items() if attributes.get(name) is self._others[name]}
        return dict(attributes) | kept

    @contextmanager
    def swapped_in(self, pipe: Any) -> Iterator[None]:
        with ExitStack() as put_back:
            for name, other in self._others.items():
                put_back.enter_context(replace_attribute(pipe, name, other))
            yield

    @contextmanager
    def swapped_out(self, pipe: Any) -> Iterator[None]:
        """The pipeline's own parts for the duration of the block, also in the middle of a call."""
        with ExitStack() as put_back:
            for name, own in self._own.items():
                if getattr(pipe, name, None) is self._others[name]:
                    put_back.enter_context(replace_attribute(pipe, name, own()))
            yield
