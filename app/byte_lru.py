"""A store with a limit in bytes: the least recently used goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class ByteLRU(Generic[T]):
    """Values by key, `size(value)` bytes each, at most `most` together. Thread-safe.

    The newest value stays even if it alone is larger than the limit: it has just been made, and is about to be used.
    """

    def __init__(self, most: int, size: Callable[[T], int]) -> None:
        self._most, self._size = most, size
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> T | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: str, value: T) -> None:
        with self._lock:
            if key in self._values:
                self._bytes -= self._values.pop(key)[1]
            size = self._size(value)
            self._values[key] = value, size
            self._bytes += size
            while self._bytes > self._most and len(self._values) > 1:
                _, (_, oldest) = self._values.popitem(last=False)
                self._bytes -= oldest

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._values

    def __len__(self) -> int:
        with self._lock:
            return len(self._values)
