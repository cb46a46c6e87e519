from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accel.rendering import Busy, Shard
from accel.rendering.ledger import RenderLedger
from accel.rendering.lock import _started, lock_folder
from accel.rendering.machine import machine


def ok(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "status": "ok", "file": f"{name}.png"} | more


def test_the_last_line_of_a_job_counts(tmp_path: Path) -> None:
    ledger = RenderLedger(tmp_path)
    ledger.append({"id": "a", "status": "failed", "error": {"message": "ünïcode\n"}})
    ledger.append(ok("b"))
    ledger.append(ok("a", attempt=2))
    again = RenderLedger(tmp_path)
    assert (again.status("a"), again.status("b"), again.status("c")) == ("ok", "ok", None)
    assert (again.attempts("a"), again.owner("A.PNG"), again.torn) == (2, "a", 0)
    assert len(ledger.path.read_text().splitlines()) == 3


@pytest.mark.parametrize("kept", range(1, 56, 9))
def test_a_line_that_a_crash_cut_off_costs_that_line_only(tmp_path: Path, kept: int) -> None:
    ledger = RenderLedger(tmp_path)
    ledger.append(ok("a"))
    whole = ledger.path.read_bytes()
    ledger.append(ok("b"))
    ledger.path.write_bytes(whole + ledger.path.read_bytes()[len(whole) :][:kept])
    torn = RenderLedger(tmp_path)
    assert (torn.status("a"), torn.status("b"), torn.torn) == ("ok", None, 1)
    torn.append(ok("c"))
    after = RenderLedger(tmp_path)
    assert (after.status("a"), after.status("c"), after.torn) == ("ok", "ok", 1)


def test_lines_that_are_no_entries_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b'\xff\xfe\n[]\n{"id": 3}\n{"id": "a", "status": "ok"}\nnull\n\n')
    assert (RenderLedger(tmp_path).entries, RenderLedger(tmp_path).torn) == ({}, 5)


def test_shards_write_files_of_their_own_and_read_all(tmp_path: Path) -> None:
    RenderLedger(tmp_path, Shard(1, 2)).append(ok("a"))
    RenderLedger(tmp_path, Shard(2, 2)).append({"id": "a", "status": "failed"})
    assert {path.name for path in tmp_path.iterdir()} == {"ledger-1-of-2.jsonl", "ledger-2-of-2.jsonl"}
    assert RenderLedger(tmp_path).status("a") == "ok"


def holder(**changes: Any) -> dict[str, Any]:
    mine = {"machine": machine(), "pid": os.getpid(), "started": _started(os.getpid()), "shard": None}
    return mine | changes


def test_two_drivers_do_not_share_a_folder_and_two_shards_do(tmp_path: Path) -> None:
    with lock_folder(tmp_path, Shard(1, 3)):
        with lock_folder(tmp_path, Shard(2, 3)):
            pass
        for other in (None, Shard(1, 3), Shard(2, 4)):
            with (
                pytest.raises(Busy, match=rf"process {os.getpid()} is rendering into .*, since \d+-"),
                lock_folder(tmp_path, other),
            ):
                pass
    with lock_folder(tmp_path, None), pytest.raises(Busy), lock_folder(tmp_path, Shard(1, 3)):
        pass
    assert list(tmp_path.glob("lock*")) == []


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = [
        holder(pid=dead.pid),
        holder(started="1"),
        {},
        {"machine": machine()},
        holder(pid=10**30),
        holder(pid=True, started=""),
    ]
    for content in [json.dumps(each) for each in stale] + ["{cut off"]:
        (tmp_path / "lock.json").write_text(content)
        with lock_folder(tmp_path, None):
            assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_the_lock_of_another_machine_is_respected_and_named(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text(json.dumps(holder(machine="elsewhere", pid=1)))
    with (
        pytest.raises(Busy, match=r"another machine or container .* delete .*lock.json if that one is gone"),
        lock_folder(tmp_path, None),
    ):
        pass
