"""What a planner keeps for a few steps: by stream and module, and only while the tensors stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from accel.attention.planner import AttentionInputs

T = TypeVar("T")


class _Entry(NamedTuple, Generic[T]):
    step: int
    fits: tuple[object, ...]
    value: T


class StepCache(Generic[T]):
    """Values by self-attention, each good for `steps` steps, that in which it was made included."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._entries: dict[tuple[str, str, str], _Entry[T]] = {}

    def get(self, inputs: AttentionInputs) -> T | None:
        """The value, or None if there is none, it is too old, or it was made of other shapes, types or layouts."""
        entry = self._entries.get(_place(inputs))
        if entry is None or entry.fits != _fits(inputs):
            return None
        return entry.value if 0 <= inputs.site.context.step - entry.step < self.steps else None

    def put(self, inputs: AttentionInputs, value: T) -> None:
        self._entries[_place(inputs)] = _Entry(inputs.site.context.step, _fits(inputs), value)

    def drop(self, inputs: AttentionInputs) -> None:
        self._entries.pop(_place(inputs), None)

    def __iter__(self) -> Iterator[T]:
        return (entry.value for entry in self._entries.values())


def _place(inputs: AttentionInputs) -> tuple[str, str, str]:
    site = inputs.site
    return site.denoiser, site.stream, site.path


def _fits(inputs: AttentionInputs) -> tuple[object, ...]:
    tensors = (inputs.q, inputs.k, inputs.v)
    return inputs.site.context.run, inputs.layout, *((part.shape, part.dtype, part.device) for part in tensors)
