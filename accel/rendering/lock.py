"""A lock on an output folder, so that two drivers never render the same jobs. The lock of a dead process is taken over.

Shards of one division (1/8 and 3/8) share no jobs and may run at once; everything else excludes each other.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accel.rendering.jobs import Shard


class Busy(ValueError):
    """Another driver renders into this folder."""


@contextmanager
def locked(folder: Path, shard: Shard | None) -> Iterator[None]:
    """Holds the lock of `folder` (where locks are kept) for this process. Raises Busy, saying who has it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "lock" if shard is None else f"lock-{shard.number}-of-{shard.count}"
    own = folder / f"{name}.json"
    with _alone(folder):
        for path in sorted(folder.glob("lock*.json")):
            holder = _read(path)
            if not _alive(holder):
                path.unlink(missing_ok=True)
            elif not _shared(holder, shard):
                raise Busy(_told(holder, path))
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        mine["shard"] = None if shard is None else [shard.number, shard.count]
        own.write_text(json.dumps(mine), encoding="utf-8")
    try:
        yield
    finally:
        own.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Looking and taking are one act. Where the file system knows no such locks, the window is milliseconds."""
    with open(folder / "guard", "ab") as guard:
        try:
            import fcntl

            fcntl.flock(guard, fcntl.LOCK_EX)  # goes with the process, however it ends
        except (ImportError, OSError):
            pass
        yield


def _read(path: Path) -> dict[str, Any]:
    """An unreadable lock was cut off while it was written, so its process is dead."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the process that holds the lock may still run; of other machines nobody here knows."""
    if not holder:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return _started(pid) == holder.get("started")  # numbers of processes are used again


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks; "" where that cannot be read, and for a process that is dead but
    not yet buried.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _shared(holder: dict[str, Any], shard: Shard | None) -> bool:
    theirs = holder.get("shard")
    if shard is None or not isinstance(theirs, list) or len(theirs) != 2:
        return False
    return bool(theirs[1] == shard.count and theirs[0] != shard.number)


def _told(holder: dict[str, Any], path: Path) -> str:
    who = f"process {holder.get('pid')} on {holder.get('host')}"
    return f"{who} is rendering into {path.parent.parent} already; wait for it, or use another folder (--out)" + (
        f", or delete {path} if that machine is gone." if holder.get("host") != socket.gethostname() else "."
    )
