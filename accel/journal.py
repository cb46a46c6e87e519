"""Files of runs that grow by a line of JSON as each run ends, so that the same call goes on where it was interrupted.

A process that is killed while it writes leaves a part of a line at the end. It counts as never written, and the next
line takes its place. Anything else that is wrong in such a file is an error: runs must not vanish in silence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from accel.files import read_bounded, write_whole
from accel.plain_data import parse_json

T = TypeVar("T")


class Journal(Generic[T]):
    """The runs of one setting: `entries` are those of earlier processes, and `add` writes one more to the disk.

    head: the settings, plain data, which the first line holds. parse: makes an entry of what a line holds, and raises
    TypeError, ValueError or LookupError for what is none. Raises ValueError, in one sentence, for a file with another
    head or a line that is no entry. Several processes may read a file that one of them writes.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], parse: Callable[[Any], T]) -> None:
        self.path, self.entries = path, list[T]()
        lines, asked = _lines_of(path), json.loads(json.dumps(head))
        first = next(lines, None)
        if first is None:
            write_whole(path, json.dumps(head) + "\n")
        elif first[1] != asked:
            raise ValueError(
                f"{path} holds runs with other settings{_differing(first[1], asked)}: "
                f"choose another folder (out=... or --out)."
            )
        else:
            self.entries += _parsed(path, lines, parse)

    def add(self, entry: Any) -> None:
        """Writes an object or a list of plain data."""
        append_line(self.path, json.dumps(entry))


def entries_of(path: Path, parse: Callable[[Any], T], *, headed: bool = False) -> list[T]:
    """What the lines of such a file hold, none where there is no file; see `Journal`. headed: but for the first."""
    lines = _lines_of(path)
    if headed:
        next(lines, None)
    return list(_parsed(path, lines, parse))


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


def _lines_of(path: Path) -> Iterator[tuple[int, Any]]:
    """The number of each line, and what it holds; None for what is no entry."""
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


def _parsed(path: Path, lines: Iterator[tuple[int, Any]], parse: Callable[[Any], T]) -> Iterator[T]:
    for number, data in lines:
        try:
            entry = parse(data)
        except (TypeError, ValueError, LookupError, AttributeError):
            raise ValueError(
                f"{path}: line {number} is no run that was written here: delete that line, and it is run again, or "
                f"choose another folder (out=... or --out)."
            ) from None
        yield entry


def _differing(known: Any, asked: Mapping[str, Any]) -> str:
    """For example " (seed, steps)"."""
    if not isinstance(known, dict):
        return ""
    names = sorted(name for name in {*known, *asked} if known.get(name, ...) != asked.get(name, ...))
    return f" ({', '.join(names)})"
