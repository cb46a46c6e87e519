"""What a pipeline's networks answered, by the exact bits of what they were asked: a second run pays for nothing twice.

A network in evaluation mode is a function of its arguments. So an answer that was remembered under all bits of the
arguments is, bit for bit, what computing it again would give, whatever recipe asks and at whatever step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch

from accel.call import LATENTS, Arguments, carries_state, copied, tensors
from accel.components import components_of, denoisers_of
from accel.drafting.own_layers import Slot, own_layers
from accel.patch import Wrapper, forward_of

# Of the network as a whole: what sessions stand around.
_OUTSIDE = ("forward", "_compiled_call_impl", "cache_context", "__reduce_ex__")


class _Unreadable(Exception):
    """An argument whose bits nobody knows, such as a key-value cache."""


class Part(NamedTuple):
    """A network of the pipeline, and the hooks that were in it before anything was attached."""

    module: torch.nn.Module
    names: Arguments
    hooks: list[int]
    denoises: bool

    def latents(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a denoiser is asked about in a call with these arguments."""
        return Arguments.pick(self.names.bind(args, kwargs), LATENTS)


class CallMemory:
    """The answers of a pipeline's denoisers and encoders in the runs of one seed.

    Nothing is remembered, or given back, where a lever acts within the network (attention, caches of blocks): its
    answer is then not a function of the arguments alone. Holds an output, the size of the latents, for each computed
    call, on the device where it was made, until the memory is let go. Reading the bits copies the arguments to the
    host in every call: milliseconds, and a stall of a GPU.
    """

    def __init__(self) -> None:
        self.rows = 0  # samples that denoisers evaluated
        self.reused = 0  # samples whose answers were remembered
        self._known: dict[bytes, Any] = {}
        self._proven: set[str] | None = None  # None: all are

    def distrust(self) -> None:
        """From here on the first answer of each network is computed anew, and everything is forgotten where its bits
        are not the remembered ones: weights and adapters may have changed meanwhile.
        """
        self._proven = set()

    def answer(self, name: str, part: Part, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        key = None if _changed_inside(part) else _key(name, args, kwargs)
        known = self._known.get(key) if key is not None else None
        if known is not None and (self._proven is None or name in self._proven):
            self.reused += rows_of(part.latents(args, kwargs)) if part.denoises else 0
            return copied(known)
        answer = inner(*args, **kwargs)
        self.rows += rows_of(part.latents(args, kwargs)) if part.denoises else 0
        if known is not None and not _same_bits(known, answer):
            self._known.clear()
        if self._proven is not None:
            self._proven.add(name)
        if key is not None and not carries_state(answer):
            self._known[key] = copied(answer)
        return answer


def attached(pipe: Any, memory: Slot[CallMemory]) -> AbstractContextManager[None]:
    """Remembers for the duration of the block, in which a session may come on top."""

    def answer(name: str, part: Part, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return memory.value.answer(name, part, inner, *args, **kwargs)

    return own_layers(
        (part.module, forward_of(part.module), partial(answer, name, part)) for name, part in networks_of(pipe)
    )


def networks_of(pipe: Any) -> Iterator[tuple[str, Part]]:
    """The denoisers and encoders; not autoencoders, which pipelines call by other methods and draw noise from."""
    components = components_of(pipe)
    denoisers = dict(denoisers_of(components))
    for name, module in components.items():
        if isinstance(module, torch.nn.Module) and not hasattr(module, "decode"):
            yield name, Part(module, Arguments(module), _hooks(module), name in denoisers)


def rows_of(latents: Any) -> int:
    """The number of samples that a denoiser is asked about."""
    return len(latents) if isinstance(latents, (torch.Tensor, list, tuple)) else 1


def _changed_inside(part: Part) -> bool:
    """Whether anything acts within the network, so that its answers hang on more than the arguments."""
    module = part.module
    if module.training or _hooks(module) != part.hooks:
        return True
    return any(
        isinstance(value, Wrapper) and not (other is module and name in _OUTSIDE)
        for other in module.modules()
        for name, value in vars(other).items()
    )


def _hooks(module: torch.nn.Module) -> list[int]:
    return [len(other._forward_hooks) + len(other._forward_pre_hooks) for other in module.modules()]


def _key(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | None:
    """A digest of every bit of the arguments; None where there are some that cannot be read."""
    digest = hashlib.blake2b(name.encode())
    try:
        for piece in _pieces([list(args), dict(kwargs)]):
            digest.update(piece)
    except _Unreadable:
        return None
    return digest.digest()


def _pieces(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield repr((tuple(value.shape), value.dtype, value.device)).encode()
        plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        yield plain.flatten().view(torch.uint8).numpy()
    elif isinstance(value, Mapping):
        yield f"{{{len(value)}".encode()
        for key, item in value.items():
            yield from _pieces(key)
            yield from _pieces(item)
    elif isinstance(value, (list, tuple)):
        yield f"[{len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    elif value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device, torch.Size)):
        yield f"{type(value).__name__}:{value!r};".encode()
    else:
        raise _Unreadable


def _same_bits(one: Any, other: Any) -> bool:
    ours, theirs = tensors(one), tensors(other)
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
