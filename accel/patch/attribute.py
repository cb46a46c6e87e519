"""Attributes of other people's objects, replaced and put back exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import getattr_static, isdatadescriptor
from typing import Any

import torch

MISSING: Any = object()


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
