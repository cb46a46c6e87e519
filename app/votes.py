"""Blind votes: which of two clips somebody liked better, with the settings that made them, one line of JSON each."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from accel.app.pair import StudioError, Vote
from accel.app.settings import StudioSettings
from accel.journal import append_line


class Votes:
    """The votes in a file of at most so many bytes, which grows by a line for each. Thread-safe."""

    def __init__(self, path: Path, most: int = 2**24) -> None:
        self._path, self._most, self._lock = path, most, threading.Lock()
        self._given: set[tuple[str, str]] = set()  # bounded by the file
        self._read: tuple[int, list[Vote]] = (0, [])  # how much of the file, and what is in it

    def add(self, vote: Vote) -> None:
        """Raises StudioError for somebody's second vote on a pair, and where the file is full."""
        line = json.dumps(asdict(vote) | {"settings": vote.settings.to_dict()}, ensure_ascii=False)
        with self._lock:
            if (vote.user, vote.pair) in self._given:
                raise StudioError("You have voted on this pair already.")
            if self._path.exists() and self._path.stat().st_size + len(line.encode()) >= self._most:
                raise StudioError("This server keeps no more votes; its owner can begin a new file.")
            self._given.add((vote.user, vote.pair))
            append_line(self._path, line)
            self._read = (0, [])  # the line may have taken a cut one's place, and as much of the file

    def all(self) -> list[Vote]:
        """Every vote so far, oldest first. Lines that a crash has cut off, or another version wrote, are left out."""
        with self._lock:
            size = min(self._path.stat().st_size, self._most) if self._path.exists() else 0
            if size != self._read[0]:
                data = self._path.read_bytes()[:size]
                self._read = size, list(_votes(data.decode("utf-8", "replace").splitlines()))
            return list(self._read[1])


def _votes(lines: Sequence[str]) -> Iterator[Vote]:
    for line in lines:
        try:
            data = json.loads(line)
            yield Vote(**data | {"settings": StudioSettings.from_dict(data["settings"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
