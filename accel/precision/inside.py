"""What an attention or a feed-forward computes between its layers, in 16 bits."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from accel.patch import Wrapper

ACTIVATIONS = ("tanh", "none")  # of GELU, by how it is computed


@contextmanager
def computing_in(dtype: torch.dtype, device: str) -> Iterator[None]:
    """In this block torch's own products (attention, and layers that nobody converted) are made in this data type,
    for this thread alone. It is autocast, with a faster norm.
    """
    with torch.autocast(device, dtype, cache_enabled=False), _Norms():
        yield


@contextmanager
def as_ever(device: str) -> Iterator[None]:
    """In this block, within another of `computing_in`, data types are the model's own."""
    with torch.autocast(device, enabled=False):
        yield


def cast(output: Any, inner: torch.dtype, dtype: torch.dtype) -> Any:
    """What a module returns, with tensors in `dtype` for those in `inner`."""
    if isinstance(output, torch.Tensor):
        return output.to(dtype) if output.dtype == inner else output
    if type(output) in (tuple, list):
        return type(output)(cast(each, inner, dtype) for each in output)
    return output


class _Norms(TorchFunctionMode):
    """Torch multiplies what is in 16 bits with weights that are not in so many passes that it takes twice as long."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.rms_norm, torch.rms_norm):
            return rms_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def rms_norm(
    input: torch.Tensor, normalized_shape: Sequence[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """Torch's `rms_norm` in float32, rounded once. `eps` defaults to that of float32."""
    given = input.float()
    x = given.clone() if given is input else given
    axes = tuple(range(-len(normalized_shape), 0))
    size = x[(0,) * (x.ndim - len(axes))].numel()
    norm = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
    least = torch.finfo(torch.float32).eps if eps is None else eps
    x.mul_(norm.square_().div_(size).add_(least).rsqrt_())
    return (x if weight is None else x.mul_(weight)).to(input.dtype)


def gelu_behind(module: torch.nn.Module, layer: str) -> str:
    """How GELU is computed in a module that applies it to what its child `layer` returns and does nothing else: one of
    `ACTIVATIONS`; "" for any other module. It is asked of a copy of the module without that layer.
    """
    replaced = not isinstance(vars(module).get("forward"), Wrapper | None)
    if replaced or _has_hooks(module) or _has_hooks(module._modules.get(layer)):
        return ""
    alike = copy.copy(module)
    alike.__dict__.pop("forward", None)
    alike._modules = {**module._modules, layer: torch.nn.Identity()}
    x = torch.linspace(-4, 4, 64).view(1, 2, 32)
    try:
        output = alike(x)
    except Exception:  # somebody else's module, which may want what nobody can guess
        return ""
    if not isinstance(output, torch.Tensor) or output.shape != x.shape:
        return ""
    return next((how for how in ACTIVATIONS if torch.equal(output, F.gelu(x, approximate=how))), "")


def _has_hooks(module: torch.nn.Module | None) -> bool:
    return module is None or bool(module._forward_hooks or module._forward_pre_hooks)
