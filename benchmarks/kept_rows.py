"""Rows of a measurement's table, each written down as soon as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from accel.journal import Journal


class Keyed(Protocol):
    """A dataclass with a name of what was measured: nothing is measured twice."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> tuple[str, str]: ...


Row = TypeVar("Row", bound=Keyed)


class KeptRows(Generic[Row]):
    """The rows of one setting, those of earlier processes first. make: a row of the fields that a line holds."""

    def __init__(self, path: Path, settings: Mapping[str, Any], make: Callable[..., Row]) -> None:
        self._journal = Journal(path, settings, lambda data: make(**data))
        self.rows = self._journal.entries

    def has(self, *key: str) -> bool:
        return any(row.key == key for row in self.rows)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._journal.add(asdict(row))
