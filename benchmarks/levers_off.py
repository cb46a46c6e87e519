"""A plugin of pytest: every pipeline that a test makes has a session attached, whose levers are all off."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import diffusers

import accel


def pytest_configure() -> None:
    for kind in _pipelines():
        if "__init__" in vars(kind):
            setattr(kind, "__init__", attaching(kind, vars(kind)["__init__"]))  # noqa: B010 - mypy refuses the other form


def _pipelines() -> Iterator[type]:
    for name in dir(diffusers):
        try:
            found = getattr(diffusers, name)
        except Exception:  # of a class whose dependency is not installed
            continue
        if isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline):
            yield found


def attaching(kind: type, init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self) is kind:
            try:
                accel.accelerate(self, accel.Recipe())
            except ValueError:  # it has no denoiser or no scheduler
                return

    return made
