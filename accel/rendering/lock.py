"""A lock on an output folder, so that two drivers never render the same jobs. The lock of a dead process is taken over.

Shards of one division (1/8 and 3/8) share no jobs and may run at once; everything else excludes each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accel.files import is_plain_file, open_file, read_bounded, write_whole
from accel.plain_data import parse_json
from accel.rendering.failures import writing
from accel.rendering.jobs import Shard
from accel.rendering.machine import machine

_MOST_BYTES = 4096


class Busy(ValueError):
    """Another driver renders into this folder."""


@contextmanager
def lock_folder(folder: Path, shard: Shard | None) -> Iterator[None]:
    """Holds the lock of `folder` (where locks are kept) for this process. Raises Busy, saying who has it, and
    OutputError where none can be written.
    """
    name = "lock" if shard is None else f"lock-{shard.number}-of-{shard.count}"
    own = folder / f"{name}.json"
    with writing(folder.parent), _alone(folder):
        for path in sorted(folder.glob("lock*.json")):
            holder = _read(path)
            if not _alive(holder):
                path.unlink(missing_ok=True)
            elif not _share(holder, shard):
                raise Busy(_holder_sentence(holder, path))
        mine = {"machine": machine(), "pid": os.getpid(), "started": _started(os.getpid())}
        mine["since"] = datetime.now(UTC).isoformat(timespec="seconds")
        mine["shard"] = None if shard is None else [shard.number, shard.count]
        write_whole(own, json.dumps(mine))
    try:
        yield
    finally:
        own.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Looking and taking are one act. Where the file system knows no such locks, the window is milliseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_file(folder / "guard", "ab") as guard:
        try:
            import fcntl

            fcntl.flock(guard, fcntl.LOCK_EX)  # goes with the process, however it ends
        except (ImportError, OSError):
            pass
        yield


def _read(path: Path) -> dict[str, Any]:
    """An unreadable lock was cut off while it was written, so its process is dead."""
    try:
        holder = parse_json(read_bounded(path, _MOST_BYTES).decode()) if is_plain_file(path) else {}
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the process that holds the lock may still run; of other machines and containers nobody here knows, nor
    of what ran before this machine was started again.
    """
    if not holder:
        return False
    if holder.get("machine") != machine():
        return True
    pid = holder.get("pid")
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
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


def _share(holder: dict[str, Any], shard: Shard | None) -> bool:
    theirs = holder.get("shard")
    if shard is None or not isinstance(theirs, list) or len(theirs) != 2:
        return False
    return bool(theirs[1] == shard.count and theirs[0] != shard.number)


def _holder_sentence(holder: dict[str, Any], path: Path) -> str:
    here = holder.get("machine") == machine()
    who = f"process {holder.get('pid')}" + ("" if here else " of another machine or container")
    told = f"{who} is rendering into {path.parent.parent} already, since {holder.get('since', 'some time ago')}; "
    told += "wait for it, or use another folder (--out)"
    return told + ("." if here else f", or delete {path} if that one is gone or was started again.")
