"""Looks for anything of accel that is left on a pipeline, and for anything of the pipeline that has changed."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import DiffusionPipeline

from tests.accel.witness import denoisers


def snapshot(pipe: DiffusionPipeline) -> dict[str, Any]:
    """Type and attributes of the pipeline, its components and every submodule of its denoisers, and their classes.

    Attributes are compared by identity, containers (hook tables among them) by the identity of what they hold.
    """
    parts = {"pipe": pipe, **{f"pipe.{name}": part for name, part in pipe.components.items() if part is not None}}
    for name, module in denoisers(pipe).items():
        parts |= {f"{name}.{path}": child for path, child in module.named_modules()}
    found: dict[str, Any] = {path: (type(part), _contents(vars(part))) for path, part in parts.items()}
    classes = {kind for part in parts.values() for kind in type(part).__mro__ if kind is not object}
    return found | {f"class {kind.__qualname__}": _contents(dict(vars(kind))) for kind in classes}


def of_denoisers(pipe: DiffusionPipeline) -> dict[str, Any]:
    """Without the pipeline and the scheduler, which remember things of a run by themselves."""
    return {path: value for path, value in snapshot(pipe).items() if not path.startswith("pipe")}


def raising_in_call(number: int) -> Callable[..., None]:
    """A hook that interrupts the run at its so many-th call."""
    left = [number]

    def hook(*_: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise InterruptedError

    return hook


def _contents(attributes: dict[str, Any]) -> dict[str, Any]:
    # Python itself keeps `__slotnames__` on every class of which an instance has been copied.
    return {name: _Same(value) for name, value in attributes.items() if name not in ("__weakref__", "__slotnames__")}


class _Same:
    """Equal to another view of the very same object with the same content. Keeps it alive, so that its address
    cannot be another object's."""

    def __init__(self, value: Any) -> None:
        self.value = value
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        self.items = list(items) if isinstance(items, (list, tuple, set)) else []

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Same)
            and self.value is other.value
            and len(self.items) == len(other.items)
            and all(one is another for one, another in zip(self.items, other.items, strict=True))
        )

    def __repr__(self) -> str:
        return repr(self.value)[:80]


def traces(pipe: DiffusionPipeline) -> list[str]:
    """Every path from the pipeline to an object of accel's."""
    return [path for path, value in _reachable(pipe) if type(value).__module__.split(".")[0] == "accel"]


def _reachable(pipe: DiffusionPipeline) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("pipe", pipe)]
    keep = []
    while waiting:
        path, value = waiting.pop()
        if id(value) in seen or isinstance(value, (type, types.ModuleType, torch.Tensor, str, int, float)):
            continue
        seen.add(id(value))
        keep.append(value)
        yield path, value
        waiting += [(f"{path}.{name}", child) for name, child in _children(value)]


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((repr(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple, set)):
        yield from ((str(index), item) for index, item in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("dict", value.__dict__))
    elif isinstance(value, types.MethodType):
        yield from (("self", value.__self__), ("func", value.__func__))
    elif isinstance(value, types.FunctionType):
        yield "dict", value.__dict__
        yield from (("cell", cell.cell_contents) for cell in value.__closure__ or () if _filled(cell))
    elif hasattr(value, "__dict__"):
        yield from vars(value).items()


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
