"""Callbacks of a pipeline's call: code of the user's that runs in the middle of it. What that calls is not the call's
own, such as another pipeline over the same denoiser that draws a preview.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from accel.ownership import CallOwner
from accel.patch import Wrapper, wrap_methods


def set_aside_in_callbacks(call: CallOwner, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Wrapper]]:
    """Sees to it that the call is set aside while the callbacks among its arguments run. Returns the arguments that
    take the place of some, and the wrappers of others, to be detached when the call ends: pipelines ask of what kind a
    callback is (`diffusers.callbacks.PipelineCallback`), so such objects stay, and their method is wrapped.
    """

    def around(inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        with call.aside():
            return inner(*args, **kwargs)

    functions: dict[str, Any] = {}
    objects: list[Any] = []
    for name, value in given.items():
        if name.startswith("callback") and callable(value):
            found = list(_with_methods(value))
            objects += found
            if not found:
                functions[name] = functools.update_wrapper(functools.partial(around, value), value)
    return functions, wrap_methods([(each, "callback_fn", around) for each in objects], everywhere=True)


def _with_methods(callback: Any) -> Iterator[Any]:
    """The objects whose method `callback_fn` is called: this one, or those that it is made of."""
    if hasattr(callback, "callback_fn"):
        yield callback
    for each in getattr(callback, "callbacks", ()):
        yield from _with_methods(each)
