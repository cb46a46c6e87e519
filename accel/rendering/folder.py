"""The output folder: files appear whole or not at all, under names that were free, and never outside of it.

It may have come from somebody else, so nothing in it is followed anywhere: links are refused or passed over.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath

from accel.files import check_folder, is_plain_file, replace_file, sync_folder, write_whole
from accel.rendering.entries import Entry
from accel.rendering.failures import OutputError, writing
from accel.rendering.jobs import Shard, file_digest

OWN = ".accel"
BOOKS = ("jobs.jsonl", "index.html", "ledger.jsonl")


class OutputFolder:
    """A folder for results. What it keeps for itself is in `.accel`: locks, and files that are not finished.

    Raises OutputError for a folder that cannot be written, ValueError for one that holds files of others under the
    names of ours, or links in their place.
    """

    def __init__(self, path: Path, shard: Shard | None = None) -> None:
        self.path = path
        self.parts = path / OWN / ("parts" if shard is None else f"parts-{shard.number}-of-{shard.count}")
        self._homes: dict[Path, bool] = {}
        with writing(path):
            self._refuse_links()
            self._claim()
            self.parts.mkdir(parents=True, exist_ok=True)
        self._real = path.resolve()

    @property
    def locks(self) -> Path:
        return self.path / OWN

    def _refuse_links(self) -> None:
        """Whoever could put a link in the place of our own files would have us write, or delete, what it leads to."""
        own = self.path / OWN
        for path in (own, *own.glob("*"), *own.glob("parts*/*"), *self.path.glob("ledger*.jsonl")):
            with suppress(FileNotFoundError, NotADirectoryError):  # another shard's, gone by now
                mode = path.lstat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise ValueError(
                        f"{path} is a link or no file, and accel makes none there; delete it, or choose another folder "
                        "(--out)."
                    )

    def _claim(self) -> None:
        """Marks the folder as ours, so that files called jobs.jsonl in it are known to be ours later on."""
        mark = self.path / OWN / "folder.json"
        if mark.is_file():
            return
        check_folder(self.path)
        foreign = [name for name in BOOKS if os.path.lexists(self.path / name)]
        if foreign and not mark.is_file():  # another shard may have claimed it meanwhile, and begun
            raise ValueError(
                f"{self.path} holds {', '.join(foreign)} of somebody else, which would be overwritten; "
                "choose another folder (--out)."
            )
        write_whole(mark, json.dumps({"schema": 1, "made_by": "accel render"}) + "\n")

    def write_book(self, name: str, lines: Iterable[str]) -> None:
        """Writes one of our own files whole. It grows among the parts, where a crash is cleared up after."""
        with writing(self.path), replace_file(self.path / name, self.parts) as file:
            file.writelines(lines)

    def has(self, name: str) -> bool:
        """Whether a file of ours is there: itself, not a link to another one."""
        return self._is_inside(name) and is_plain_file(self.path / name)

    def is_as_rendered(self, entry: Entry) -> bool:
        """Whether a file of ours is still what its line says: of the same size and, where it was written to later,
        of the same content. What a line does not say is believed.
        """
        path = self.path / entry["file"]
        try:
            found = path.stat()
            if found.st_size != entry.get("bytes", found.st_size):
                return False
            known = found.st_mtime <= _seconds(entry.get("time", "")) or "sha256" not in entry
            return known or file_digest(path) == entry["sha256"]
        except OSError:  # it cannot be read
            return False

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
            sync_folder(target.parent)
            return
        sync_folder(target.parent)  # the old name must not be gone before the new one is on the disk
        source.unlink(missing_ok=True)

    def recover(self, entry: Entry) -> None:
        """Finishes what a crash left between the ledger's line and the file's name, if the part is there and whole."""
        name, part = entry["file"], entry.get("part")
        if part is None or self.has(name) or not self._is_inside(name):
            return
        whole = is_plain_file(self.path / OWN / part) and file_digest(self.path / OWN / part) == entry.get("sha256")
        if whole:
            with suppress(FileExistsError):  # somebody else's by now: the job gets another name
                self.publish(part, name)

    def sweep(self) -> None:
        """Removes the parts of jobs that were cut off. Only under the lock, and after everything was recovered."""
        with writing(self.path):
            for folder in self._own_parts():
                for part in folder.iterdir():
                    if part.is_symlink() or not part.is_dir():
                        part.unlink(missing_ok=True)

    def _own_parts(self) -> list[Path]:
        """A driver without shard is alone in the folder and clears up after all shards; a shard after itself."""
        folders = sorted(self.parts.parent.glob("parts*")) if self.parts.name == "parts" else [self.parts]
        return [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]

    def _inside(self, name: str) -> Path:
        """The path of a name; links inside the folder must not lead out of it."""
        if not self._is_inside(name):
            raise OutputError(
                f"{self.path / name} is outside of {self.path} (a link leads there), so it is not written."
            )
        return self.path / name

    def _is_inside(self, name: str) -> bool:
        home = (self.path / name).parent
        if home not in self._homes or not home.is_dir():  # one that is not there yet may still become a link
            self._homes[home] = ".." not in PurePosixPath(name).parts and home.resolve().is_relative_to(self._real)
        return self._homes[home]


def _seconds(time: str) -> float:
    """When a line was written, in seconds of the system's clock; 0 where it does not say."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
