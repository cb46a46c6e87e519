"""The outputs of modules that are kept for reuse, and how many bytes they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from accel.call import rebuilt, structure, tensors

Shapes = tuple[tuple[torch.Size, torch.dtype, torch.device], ...]


class ModuleCall(NamedTuple):
    """Whose output is kept. `occurrence` counts the calls of one module within one call of the denoiser: a chunked
    feed-forward is called once for every chunk.
    """

    denoiser: str
    stream: str
    path: str
    occurrence: int


@dataclass(frozen=True)
class StoredOutput:
    """One module's output. The memory is its own, so that nobody who works in place on the output can change it."""

    kind: str
    step: int  # when it was computed
    shapes: Shapes  # of what the module was given
    template: Any  # a tensor, or a tuple (joint attention returns both streams), without memory
    values: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, output: Any, kind: str, step: int, shapes: Shapes) -> StoredOutput:
        values = tuple(value.detach().clone() for value in tensors(output))
        return cls(kind, step, shapes, structure(output), values)

    def output(self) -> Any:
        return rebuilt(self.template, [value.clone() for value in self.values])

    @property
    def bytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in self.values)


class ModuleStore:
    """Kept outputs by slot. `bytes_now` are the bytes now, `peak` the most that were held at once."""

    def __init__(self) -> None:
        self._kept: dict[ModuleCall, StoredOutput] = {}
        self.bytes_now = self.peak = 0

    def get(self, slot: ModuleCall) -> StoredOutput | None:
        return self._kept.get(slot)

    def put(self, slot: ModuleCall, kept: StoredOutput) -> None:
        self.drop(slot)
        self._kept[slot] = kept
        self.bytes_now += kept.bytes
        self.peak = max(self.peak, self.bytes_now)

    def drop(self, slot: ModuleCall) -> None:
        old = self._kept.pop(slot, None)
        self.bytes_now -= old.bytes if old is not None else 0

    def drop_where(self, stale: Callable[[ModuleCall, StoredOutput], bool]) -> None:
        for slot in [slot for slot, kept in self._kept.items() if stale(slot, kept)]:
            self.drop(slot)

    def clear(self) -> None:
        """Forgets the outputs, not the peak."""
        self._kept.clear()
        self.bytes_now = 0


def shapes_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shapes:
    """What an output depends on besides the values: shape, dtype and device of everything that the module is given."""
    return tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors((args, kwargs)))
