"""The ledger: what became of each job, one JSON line per attempt, only ever appended to. It is the only truth.

A line is written when the file is complete under a temporary name, and only then is the file given its own name: after
a crash in between, the line tells which file to finish. So a job that has a line "ok" is never rendered again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from accel.rendering.jobs import Shard

SCHEMA = 1
Status = Literal["ok", "failed"]
Entry = dict[str, Any]


class Ledger:
    """The ledgers of an output folder, read together; this driver's own is appended to.

    Every shard has a file of its own, because appending to one file from several machines is safe on few network file
    systems. `torn` counts the lines that cannot be read: a crash may leave one, the last.
    """

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        name = "ledger.jsonl" if shard is None else f"ledger-{shard.number}-of-{shard.count}.jsonl"
        self.path = folder / name
        self.torn = 0
        self.entries: dict[str, Entry] = {}
        self._owners: dict[str, str] = {}
        self._lock = threading.Lock()
        for path in sorted(folder.glob("ledger*.jsonl")):
            for entry in self._read(path):
                self._note(entry, path)

    def append(self, entry: Entry) -> None:
        """Writes one line and waits until it is on the disk."""
        line = json.dumps({"schema": SCHEMA} | entry, ensure_ascii=False) + "\n"
        with self._lock, open(self.path, "ab+") as file:
            if file.tell() and not _ends_a_line(file):
                line = "\n" + line  # the rest of a line that a crash cut off must not swallow this one
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
            self._note(entry, self.path)

    def status(self, job_id: str) -> Status | None:
        """What the last attempt came to; None for a job that was never finished."""
        entry = self.entries.get(job_id)
        status: Status | None = entry["status"] if entry is not None else None
        return status

    def attempts(self, job_id: str) -> int:
        entry = self.entries.get(job_id)
        return int(entry.get("attempt", 1)) if entry is not None else 0

    def owner(self, name: str) -> str | None:
        """The job whose file has this name."""
        return self._owners.get(name.casefold())

    def _note(self, entry: Entry, path: Path) -> None:
        """The last line of a file counts; between files a success does."""
        earlier = self.entries.get(entry["id"])
        if earlier is not None and earlier["status"] == "ok" and entry["status"] != "ok" and path != self.path:
            return
        self.entries[entry["id"]] = entry
        if entry["status"] == "ok":
            self._owners[entry["file"].casefold()] = entry["id"]

    def _read(self, path: Path) -> Iterator[Entry]:
        for line in path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                complete = isinstance(entry, dict) and isinstance(entry.get("id"), str)
                complete = complete and entry.get("status") in ("ok", "failed")
                complete = complete and (entry["status"] == "failed" or isinstance(entry.get("file"), str))
            except ValueError:
                complete = False
            if complete:
                yield entry
            else:
                self.torn += 1


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
