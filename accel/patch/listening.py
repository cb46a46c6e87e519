"""Hears what a module receives and returns, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from accel import conventions
from accel.call import Arguments
from accel.ownership import AT_WORK
from accel.patch.compiled import is_compiled
from accel.patch.method import Wrapper


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
