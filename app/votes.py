"""Blind votes: which of two clips somebody liked better, with the settings that made them, one line of JSON each."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from pathlib import Path

from accel.app.pair import Vote
from accel.app.settings import Settings


class Votes:
    """The votes in a file, which grows by a line for each. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def add(self, vote: Vote) -> None:
        line = json.dumps(asdict(vote) | {"settings": vote.settings.to_dict()}, ensure_ascii=False)
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def all(self) -> list[Vote]:
        """Every vote so far, oldest first. Lines that a crash has cut off, or another version wrote, are left out."""
        with self._lock:
            lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        found = []
        for line in lines:
            try:
                data = json.loads(line)
                found.append(Vote(**data | {"settings": Settings.from_dict(data["settings"])}))
            except (ValueError, KeyError, TypeError):
                continue
        return found
