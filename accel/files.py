"""Reads and writes the JSON files that people keep: recipes, calibrations, the records of a batch."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from accel.plain_data import parse_json

T = TypeVar("T")

MOST_BYTES = 64 * 2**20
"""Of a file that is read as JSON. A calibration of a hundred steps and layers has some megabytes."""

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Writes the file whole or not at all, and the folders above it where they are missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        file.write(text)


def check_folder(path: Path) -> None:
    """Raises ValueError for a place that can be no folder, because a file is there or above it."""
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise ValueError(f"{place} is a file; choose a folder for the results (--out).")
            return


@contextmanager
def replace_file(path: str | os.PathLike[str], partials: Path | None = None) -> Iterator[IO[str]]:
    """A new text file that takes the place of `path` when the block ends, once it is on the disk; where the block
    fails, nothing changes. A link at `path` is replaced, not followed.

    It grows under a name that nobody can know, so that processes may write the same file at once: the last one counts.
    partials: the folder for it, on the same disk; left out, the one of `path`.
    """
    target = Path(path)
    partial = (partials or target.parent) / f"{secrets.token_hex(8)}.part"
    try:
        with open_file(partial, "x", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def open_file(path: str | os.PathLike[str], mode: str, **options: Any) -> IO[Any]:
    """`open`, but for a link, which is an error (OSError) instead of another file."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | _NO_LINKS, 0o666), **options)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system has such a thing."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def last_name(path: str) -> str:
    """The last part of a path that begins at the root, a drive or a home: where else on this machine something lies is
    nobody's business who gets a file. Anything else, such as a model's id, stays.
    """
    begins = path.startswith(("/", "~", "\\\\")) or path[1:3] in (":\\", ":/")
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] if begins else path


def is_plain_file(path: Path) -> bool:
    """Whether there is a file that is no link, folder, pipe or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def read_bounded(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """The content of a file. Raises ValueError for one that is larger, OSError for what cannot be read as a file."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe may never end
        raise OSError("it is no file")
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most / 2**20:.0f} MiB")
    return data


def lines_of(path: str | os.PathLike[str], most: int = MOST_BYTES) -> list[str]:
    """The lines of a text. Raises ValueError, in one sentence, for a file that cannot be read or has more bytes."""
    try:
        return read_bounded(path, most).decode().splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be read: {error}.") from None


def read_json(path: str | os.PathLike[str], what: str, parse: Callable[[Any], T], most: int = MOST_BYTES) -> T:
    """What `parse` makes of the file. Raises ValueError, in one sentence, for one that is missing, malformed or larger
    than `most` bytes.
    """
    name = os.fspath(path)
    try:
        text = read_bounded(path, most).decode()
    except FileNotFoundError:
        raise ValueError(f"There is no {what} file {name}.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"The {what} file {name} cannot be read: {error}.") from None
    try:
        data = parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from None
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from None
    try:
        return parse(data)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
