"""Files of runs that grow by a line of JSON as each run ends, so that the same call goes on where it was interrupted.

    {"settings": {"seed": 0, "steps": 50}}
    {"way": "fast", "prompt": "a corgi", "psnr": 31.2}
    {"way": "fast", "prompt": "a wave", "psnr": 33.0}

A process that is killed while it writes leaves a part of a line at the end. It counts as never written, and the next
line takes its place. Anything else that is wrong in such a file is an error: runs must not vanish in silence. (Files
to which strangers write skip such lines instead: `accel/rendering/ledger.py`, `app/votes.py`.)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_origin, get_type_hints

from accel.files import read_bounded, write_whole
from accel.plain_data import parse_json


class Keyed(Protocol):
    """A dataclass of plain data that holds one run. key: which run it is, because none is made twice."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> Hashable: ...


Row = TypeVar("Row", bound=Keyed)
Whole = TypeVar("Whole")


class Journal(Mapping[Hashable, Row]):
    """The runs of one setting by their keys, oldest first: those of earlier processes, and those that `add` writes.

    path: the file; None keeps the runs in this process alone. settings: plain data that all the runs have in common.
    make: a row from the fields of a line, its class or a function that raises TypeError, ValueError or LookupError for
    what is none; that numbers are numbers is seen to. beside: files of other processes, whose runs count as made and
    are not written here.

    Raises ValueError, in one sentence that says what to do, for a file with other settings or a line that is no run,
    and leaves such a file as it is. Several processes may read a file that one of them writes.
    """

    def __init__(
        self, path: Path | None, settings: Mapping[str, Any], make: Callable[..., Row], beside: Iterable[Path] = ()
    ) -> None:
        self.path = path
        rows = [row for other in beside for row in rows_of(other, make)]
        if path is not None:
            rows += _begun(path, json.loads(json.dumps(settings)), make)
        self._rows: dict[Hashable, Row] = {row.key: row for row in rows}

    def __getitem__(self, key: Hashable) -> Row:
        return self._rows[key]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> Row:
        """The row, which is on the disk when this returns. It takes the place of an earlier one with its key."""
        self._rows[row.key] = row
        if self.path is not None:
            append_line(self.path, json.dumps(asdict(row)))
        return row

    def once(self, key: Hashable, run: Callable[[], Row]) -> Row:
        """The run of this key: the one that is there, else what `run` makes now."""
        return self[key] if key in self else self.add(run())


def rows_of(path: Path, make: Callable[..., Row]) -> list[Row]:
    """The runs of such a file, whatever its settings, none where there is no file; see `Journal`."""
    lines = _lines_of(path)
    _settings_in(path, next(lines, None))
    return _rows_in(path, lines, make)


def _rows_in(path: Path, lines: Iterator[tuple[int, Any]], make: Callable[..., Row]) -> list[Row]:
    """The runs in the lines behind the first."""
    rows = list[Row]()
    for number, data in lines:
        try:
            rows.append(_with_numbers(make(**data)))
        except (TypeError, ValueError, LookupError, AttributeError):
            raise ValueError(
                f"{path}: line {number} is no run that was written here: delete that line, and it is run again, or "
                f"choose another folder (out=... or --out)."
            ) from None
    return rows


def _with_numbers(row: Whole) -> Whole:
    """The row, or a TypeError where it has something else than a number: arithmetic would fail hours later."""
    kind: type = type(row)
    for name, declared in _declared(kind).items():
        value = getattr(row, name)
        if declared in (float, int):
            math.fsum((value,))
        elif get_origin(declared) is Mapping and get_args(declared)[1] is float:
            math.fsum(value.values())
        elif is_dataclass(value):
            _with_numbers(value)
    return row


@cache
def _declared(kind: type) -> dict[str, Any]:
    """The types of its fields by their names, read once: a folder of runs has thousands of rows of one class."""
    return get_type_hints(kind)


def append_line(path: Path, text: str) -> None:
    """Writes one line and waits until it is on the disk. text: an object or a list as JSON, without line breaks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            begin = (data := file.read()).rfind(b"\n") + 1
            if _data_of(data[begin:]) is None:
                file.truncate(begin)
            else:
                text = "\n" + text
        file.write((text + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _begun(path: Path, asked: dict[str, Any], make: Callable[..., Row]) -> list[Row]:
    """The runs of a file that is to be written to: of a new one the first line is written, and an old one with another
    first line raises ValueError.
    """
    lines = _lines_of(path)
    known = _settings_in(path, next(lines, None))
    if known is None:
        write_whole(path, json.dumps({"settings": asked}) + "\n")
    elif known != asked:
        names = sorted(name for name in {*known, *asked} if known.get(name, ...) != asked.get(name, ...))
        raise ValueError(
            f"{path} holds runs with other settings ({', '.join(names)}), which it keeps: choose another folder "
            f"(out=... or --out)."
        )
    return _rows_in(path, lines, make)


def _settings_in(path: Path, first: tuple[int, Any] | None) -> dict[str, Any] | None:
    """The settings in the first line; None where there is no line yet."""
    match first:
        case None:
            return None
        case (_, {"settings": dict(settings), **others}) if not others:
            return settings
    raise ValueError(
        f"{path} does not begin with the settings of its runs, so it is of an earlier version or no file of ours: "
        f"choose another folder (out=... or --out)."
    )


def _lines_of(path: Path) -> Iterator[tuple[int, Any]]:
    """The number of each line, and what it holds; None for what is neither an object nor a list."""
    try:
        *lines, last = (read_bounded(path) if path.exists() else b"").split(b"\n")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _data_of(line)
    if (whole := _data_of(last)) is not None:
        yield len(lines) + 1, whole


def _data_of(line: bytes) -> dict[str, Any] | list[Any] | None:
    """What a line holds; None for a part of a line: the beginning of an object or a list is never JSON."""
    try:
        data = parse_json(line.decode())
    except ValueError:
        return None
    return data if isinstance(data, (dict, list)) else None
