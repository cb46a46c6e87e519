"""The ledger: what became of each job, one JSON line per attempt, only ever appended to. It is the only truth.

A line is written when the file is complete under a temporary name, and only then is the file given its own name: after
a crash in between, the line tells which file to finish. So a job that has a line "ok" is never rendered again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accel.files import is_plain_file, open_file
from accel.rendering.entries import MOST_BYTES, Entry, entry_of
from accel.rendering.jobs import Shard

SCHEMA = 1
_MOST_ATTEMPTS = 1_000_000  # whoever writes more into a ledger must not make our next line one that is not believed
Status = Literal["ok", "failed"]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What is held of a line, and where the rest of it is: a hundred thousand lines whole would fill the memory."""

    status: Status
    attempt: int
    file: str
    ledger: Path
    start: int


class RenderLedger:
    """The ledgers of an output folder, read together; this driver's own is appended to.

    Every shard has a file of its own, because appending to one file from several machines is safe on few network file
    systems. `torn` counts the lines that are no entries: a crash may leave one, the last. Raises ValueError for a
    ledger that is a link.
    """

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        name = "ledger.jsonl" if shard is None else f"ledger-{shard.number}-of-{shard.count}.jsonl"
        self.path = folder / name
        self.torn = 0
        self.entries: dict[str, LedgerEntry] = {}
        self._owners: dict[str, str] = {}
        self._lock = threading.Lock()
        for path in sorted(folder.glob("ledger*.jsonl")):
            if not is_plain_file(path):
                raise ValueError(f"{path} is a link or no file, so it is no ledger of ours; delete it.")
            for start, entry in self._read(path):
                self._note(entry, path, start)

    def append(self, entry: Entry) -> None:
        """Writes one line and waits until it is on the disk."""
        line = json.dumps({"schema": SCHEMA} | entry, ensure_ascii=False) + "\n"
        with self._lock, open_file(self.path, "ab+") as file:
            start = file.seek(0, os.SEEK_END)
            if start and not _ends_a_line(file):
                # The rest of a line that a crash cut off must not swallow this one.
                line, start = "\n" + line, start + 1
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
            self._note(entry, self.path, start)

    def entry(self, job_id: str) -> Entry | None:
        """The line that counts for a job, read from the disk; None where there is none (any more)."""
        kept = self.entries.get(job_id)
        if kept is None:
            return None
        with open_file(kept.ledger, "rb") as file:
            file.seek(kept.start)
            return entry_of(file.readline(MOST_BYTES + 1).strip())

    def status(self, job_id: str) -> Status | None:
        """What the last attempt came to; None for a job that was never finished."""
        kept = self.entries.get(job_id)
        return kept.status if kept is not None else None

    def attempts(self, job_id: str) -> int:
        kept = self.entries.get(job_id)
        return min(kept.attempt, _MOST_ATTEMPTS) if kept is not None else 0

    def owner(self, name: str) -> str | None:
        """The job whose file has this name."""
        return self._owners.get(name.casefold())

    def _note(self, entry: Entry, path: Path, start: int) -> None:
        """The last line of a file counts; between files a success does."""
        earlier = self.entries.get(entry["id"])
        if earlier is not None and earlier.status == "ok" and entry["status"] != "ok" and path != self.path:
            return
        kept = LedgerEntry(entry["status"], entry.get("attempt", 1), entry.get("file", ""), path, start)
        self.entries[entry["id"]] = kept
        if kept.status == "ok":
            self._owners[kept.file.casefold()] = entry["id"]

    def _read(self, path: Path) -> Iterator[tuple[int, Entry]]:
        with open_file(path, "rb") as file:
            for start, line in _lines(file):
                if not line.strip():
                    continue
                entry = entry_of(line)
                if entry is None:
                    self.torn += 1
                else:
                    yield start, entry


def _lines(file: Any) -> Iterator[tuple[int, bytes]]:
    """The lines with their places; of one that is too long, as much as shows that it is."""
    start = 0
    while line := file.readline(MOST_BYTES + 1):
        length = len(line)
        while not line.endswith(b"\n") and (rest := file.readline(MOST_BYTES)):
            length += len(rest)
            if rest.endswith(b"\n"):
                break
        yield start, line
        start += length


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
