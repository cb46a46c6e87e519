"""What a planner keeps for a few steps: by stream and module, and only while the tensors stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from accel.attention.method import Question

T = TypeVar("T")


class _Entry(NamedTuple, Generic[T]):
    step: int
    fits: tuple[object, ...]
    value: T


class Remembered(Generic[T]):
    """Values by self-attention, each good for `steps` steps, that in which it was made included."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._entries: dict[tuple[str, str, str], _Entry[T]] = {}

    def get(self, question: Question) -> T | None:
        """The value, or None if there is none, it is too old, or it was made of other shapes, types or layouts."""
        entry = self._entries.get(_place(question))
        if entry is None or entry.fits != _fits(question):
            return None
        return entry.value if 0 <= question.site.moment.step - entry.step < self.steps else None

    def put(self, question: Question, value: T) -> None:
        self._entries[_place(question)] = _Entry(question.site.moment.step, _fits(question), value)

    def drop(self, question: Question) -> None:
        self._entries.pop(_place(question), None)

    def __iter__(self) -> Iterator[T]:
        return (entry.value for entry in self._entries.values())


def _place(question: Question) -> tuple[str, str, str]:
    site = question.site
    return site.denoiser, site.stream, site.path


def _fits(question: Question) -> tuple[object, ...]:
    tensors = (question.q, question.k, question.v)
    return question.site.moment.run, question.layout, *((part.shape, part.dtype, part.device) for part in tensors)
