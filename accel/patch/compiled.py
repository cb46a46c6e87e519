"""What of a module can be heard and changed where torch compiles it, or parts of it, as a whole."""

from __future__ import annotations

from typing import Any

import torch

from accel.patch.method import Wrapper, chain, other_method


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether the module was compiled in place (`module.compile()`), which keeps its class and its `forward`."""
    return getattr(module, "_compiled_call_impl", None) is not None


def forward_of(module: Any) -> str:
    """The method that a call of the module ends up in. One that is compiled in place has another than `forward`, within
    which a wrapper would be compiled as well.
    """
    return "_compiled_call_impl" if is_compiled(module) else "forward"


def is_graph(module: torch.nn.Module) -> bool:
    """Whether the module is compiled as a whole, in whichever way, so that nothing can be heard or changed within it:
    in place, by `torch.compile(module)`, or by `module.forward = torch.compile(module.forward)`.
    """
    forward = other_method(module, "forward") or getattr(type(module), "forward", None)
    return is_compiled(module) or hasattr(module, "_orig_mod") or is_compiled_function(forward)


def is_compiled_function(method: Any) -> bool:
    """Whether a function or method is `torch.compile`'s, or says that it wraps one."""
    return any(_is_of_the_compiler(each) for each in chain(method))


def reachable(denoiser: torch.nn.Module, path: str) -> torch.nn.Module | None:
    """The module at a dotted path, or None where it does not exist or one of those above it is compiled."""
    module = denoiser
    for part in path.split("."):
        inner = None if is_graph(module) else getattr(module, part, None)
        if not isinstance(inner, torch.nn.Module):
            return None
        module = inner
    return module


def _is_of_the_compiler(method: Any) -> bool:
    """Those that are kept from the compiler (`torch.compiler.disable`) are marked as well."""
    marked = hasattr(method, "_torchdynamo_orig_callable") and not isinstance(method, Wrapper)
    return marked and not getattr(method, "_torchdynamo_disable", False)
