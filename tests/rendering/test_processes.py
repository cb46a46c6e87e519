"""Real processes that are killed without warning. They start in seconds, so few tests share them."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.rendering import Processes, RenderInterrupted
from tests.rendering import hands
from tests.rendering.studio import check_exactly_once, ledger_lines

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")

LINES: list[Any] = [{"prompt": f"prompt {number}", "repeat": 2} for number in range(25)]


def drive(out: Path, lines: list[Any] = LINES, workers: int = 2) -> Any:
    engine = Processes(workers, hands.load)
    return accel.render("plain", lines, out, recipe="off", engine=engine, progress_bar=False)


def contents(folder: Path) -> dict[str, str]:
    """The hash of each job's file; `check_exactly_once` sees to it that it is true."""
    return {entry["id"]: entry["sha256"] for entry in ledger_lines(folder) if entry["status"] == "ok"}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def workers_of(folder: Path) -> set[int]:
    return {entry["pid"] for entry in ledger_lines(folder) if entry["status"] == "ok"}


class Killer(threading.Thread):
    """Kills a worker that has begun to work, again and again."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.times, self.killed = folder, times, 0

    def run(self) -> None:
        chance, end = random.Random(0), time.monotonic() + 600
        while self.killed < self.times and time.monotonic() < end:
            living = [pid for pid in workers_of(self.folder) if alive(pid)]
            if living:
                os.kill(chance.choice(living), signal.SIGKILL)
                self.killed += 1
            time.sleep(0.05 + 0.2 * chance.random())


@pytest.mark.slow
def test_workers_killed_at_random_lose_nothing_and_poison_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the files are those of a single process, bit for bit."""
    monkeypatch.setattr("accel.loading.load_pipeline", hands.load)
    killer = Killer(tmp_path / "killed", 2)
    killer.start()
    lines = [*LINES[:8], "fail", "kill", *LINES[8:]]
    summary = drive(tmp_path / "killed", lines)
    assert (summary.rendered, summary.failed, summary.left) == (50, 2, 0), str(summary)
    assert killer.killed == 2, "the workers were too fast for this test to mean anything"
    check_exactly_once(tmp_path / "killed", 50)
    failed = {entry["line"]["prompt"]: entry["error"] for entry in summary.failures}
    assert failed["fail"] == {"type": "RuntimeError", "message": "the prompt is poisoned"}
    assert failed["kill"]["type"] == "WorkerDied" and "killed by SIGKILL" in failed["kill"]["message"]

    accel.render("plain", lines[:9] + lines[10:], tmp_path / "single", recipe="off", progress_bar=False)
    assert contents(tmp_path / "killed") == contents(tmp_path / "single")


def test_a_killed_driver_takes_its_workers_along_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = multiprocessing.get_context("fork").Process(target=drive, args=(tmp_path,))
    driver.start()
    end = time.monotonic() + 600
    while len(ledger_lines(tmp_path)) < 5 and time.monotonic() < end:
        time.sleep(0.01)
    assert driver.pid is not None
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    workers = workers_of(tmp_path)
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.01)
    assert workers and not any(map(alive, workers))
    before = len(ledger_lines(tmp_path))
    assert 5 <= before < 50
    monkeypatch.setattr("accel.loading.load_pipeline", hands.load)
    summary = accel.render(
        "plain", LINES, tmp_path, recipe="off", progress_bar=False
    )  # here: another worker takes long
    assert summary.complete and summary.before >= before
    check_exactly_once(tmp_path, 50)


@pytest.mark.slow  # test_overlap.py interrupts in one process
def test_ctrl_c_finishes_the_jobs_at_hand(tmp_path: Path) -> None:
    def interrupt() -> None:
        end = time.monotonic() + 600
        while len(ledger_lines(tmp_path)) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(RenderInterrupted) as caught:
        drive(tmp_path, workers=1)
    summary = caught.value.summary
    assert 3 <= summary.rendered < 50 and summary.failed == 0
    check_exactly_once(tmp_path, summary.rendered)
    assert multiprocessing.active_children() == []
