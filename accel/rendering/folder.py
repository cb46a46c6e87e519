"""The output folder: files appear whole or not at all, under names that were free, and never outside of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from accel.files import write_whole
from accel.rendering.failures import OutputError, writing
from accel.rendering.jobs import Shard, file_digest
from accel.rendering.ledger import Entry

OWN = ".accel"
BOOKS = ("jobs.jsonl", "index.html", "ledger.jsonl")


class OutputFolder:
    """A folder for results. What it keeps for itself is in `.accel`: locks, and files that are not finished.

    Raises OutputError for a folder that cannot be written, ValueError for one that holds files of others under the
    names of ours.
    """

    def __init__(self, path: Path, shard: Shard | None = None) -> None:
        self.path = path
        self.parts = path / OWN / ("parts" if shard is None else f"parts-{shard.number}-of-{shard.count}")
        with writing(path):
            self._claim()
            self.parts.mkdir(parents=True, exist_ok=True)
        self._real = path.resolve()

    @property
    def locks(self) -> Path:
        return self.path / OWN

    def _claim(self) -> None:
        """Marks the folder as ours, so that files called jobs.jsonl in it are known to be ours later on."""
        mark = self.path / OWN / "folder.json"
        if mark.is_file():
            return
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; choose a folder for the results (--out).")
        foreign = [name for name in BOOKS if (self.path / name).exists()]
        if foreign:
            raise ValueError(
                f"{self.path} holds {', '.join(foreign)} of somebody else, which would be overwritten; "
                "choose another folder (--out)."
            )
        write_whole(mark, json.dumps({"schema": 1, "made_by": "accel render"}) + "\n")

    def write_book(self, name: str, text: str) -> None:
        """Writes one of our own files whole."""
        partial = self.path / OWN / f"{name}-{os.getpid()}"  # shards may write the same book at once
        with writing(self.path):
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.path / name)

    def has(self, entry: Entry) -> bool:
        """Whether the file of a ledger's line is there."""
        return (self.path / str(entry["file"])).is_file()

    def free_name(self, stem: PurePosixPath, suffix: str, taken: Callable[[str], bool]) -> str:
        """The first name that neither a file nor another job has: stem.png, stem-2.png ..."""
        number = 1
        while True:
            name = f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}"
            if not taken(name) and not os.path.lexists(self._inside(name)):
                return name
            number += 1

    def publish(self, part: str, name: str) -> None:
        """Gives a finished part (a path below `.accel`) its name. Raises FileExistsError where the name is taken."""
        source, target = self.path / OWN / part, self._inside(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)  # unlike a rename, this fails where the name is taken
        except FileExistsError:
            raise
        except OSError:  # file systems without hard links
            if os.path.lexists(target):
                raise FileExistsError(f"{target} exists.") from None
            os.rename(source, target)
            return
        source.unlink(missing_ok=True)

    def recover(self, entry: Entry) -> None:
        """Finishes what a crash left between the ledger's line and the file's name, if the part is there and whole."""
        part = self.path / OWN / str(entry.get("part"))
        if not self.has(entry) and part.is_file() and file_digest(part) == entry.get("sha256"):
            self.publish(str(entry["part"]), entry["file"])

    def sweep(self) -> None:
        """Removes the parts of jobs that were cut off. Only under the lock, and after everything was recovered."""
        with writing(self.path):
            for folder in self._own_parts():
                for part in folder.iterdir():
                    part.unlink(missing_ok=True)

    def _own_parts(self) -> list[Path]:
        """A driver without shard is alone in the folder and clears up after all shards; a shard after itself."""
        return sorted(self.parts.parent.glob("parts*")) if self.parts.name == "parts" else [self.parts]

    def _inside(self, name: str) -> Path:
        """The path of a name; links inside the folder must not lead out of it."""
        target = self.path / name
        if ".." in PurePosixPath(name).parts or not target.parent.resolve().is_relative_to(self._real):
            raise OutputError(f"{target} is outside of {self.path} (a link leads there), so it is not written.")
        return target
