"""The one folder that an app writes to: private, bounded, deleted at the end, and at the next start after a crash."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where folders of dead processes stay until somebody deletes them
    fcntl = None  # type: ignore[assignment]

PREFIX = "accel-app-"
_LOCK = "lock"
_YOUNG = 60.0  # seconds in which a folder may have no lock yet


class Scratch:
    """`folder` is readable by this user alone. `clips` lies below `files`, which is what the server gives out: clips by
    their names, which nobody can guess, and uploads. most: bytes of uploads and of copies of them. Thread-safe.
    """

    def __init__(self, most: int) -> None:
        clear_dead()
        self._most, self._guard = most, threading.Lock()
        self._temporary = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name).resolve()
        self.files, self.clips = self.folder / "files", self.folder / "files" / "clips"
        self.clips.mkdir(parents=True)
        self._lock = _locked(self.folder / _LOCK)

    def make_room(self, coming: int) -> bool:
        """Deletes the oldest uploads until `coming` more bytes fit. False where they never will."""
        with self._guard:
            entries = sorted(self._uploads(), key=lambda entry: entry[0])
            total = sum(size for _, size, _ in entries)
            for _, size, path in entries:
                if total + coming <= self._most:
                    break
                path.unlink(missing_ok=True)
                total -= size
            return total + coming <= self._most

    def close(self) -> None:
        """Deletes everything."""
        self._temporary.cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _uploads(self) -> list[tuple[float, int, Path]]:
        """(when, bytes, path) of every file but the clips, which go with their pairs."""
        found = []
        for place, folders, names in os.walk(self.files):
            if Path(place) == self.files:
                folders.remove(self.clips.name)
            for name in names:
                path = Path(place, name)
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
                found.append((status.st_mtime, status.st_size, path))
        return found


def clear_dead() -> None:
    """Deletes the folders that processes of this user have left behind when they were killed."""
    if fcntl is None:
        return
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            status = path.lstat()
            if path.is_symlink() or not path.is_dir() or status.st_uid != os.getuid():
                continue
            if not (path / _LOCK).exists() and time.time() - status.st_mtime < _YOUNG:
                continue
            lock = _locked(path / _LOCK)
        except OSError:  # gone meanwhile, or its process lives
            continue
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(path: Path) -> int | None:
    """A lock that its process holds until it ends, in whatever way. Raises OSError where another has it."""
    if fcntl is None:
        return None
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
