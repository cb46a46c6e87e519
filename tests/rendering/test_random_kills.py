"""Drivers and workers that are killed at random moments: each job once, the same bytes, and a ledger that is whole.

A thousand jobs with `--slow`, whose kills are printed with `-s`; a few here.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.rendering import Processes
from accel.rendering.entries import entry_of
from accel.rendering.ledger import RenderLedger
from tests.rendering import hands
from tests.rendering.studio import check_exactly_once, ledger_lines
from tests.rendering.test_processes import alive, contents, workers_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")

MINUTES = 25


def drive(out: Path, lines: list[Any], workers: int) -> Any:
    """With one worker everything is in the driver's own process, which a fork starts at once."""
    engine = None if workers == 1 else Processes(workers, hands.load)
    return accel.render("plain", lines, out, recipe="off", engine=engine, progress_bar=False, retry_failed=True)


def start(out: Path, lines: list[Any], workers: int) -> Any:
    driver = multiprocessing.get_context("fork").Process(target=drive, args=(out, lines, workers))
    driver.start()
    return driver


def kill_some(out: Path, lines: list[Any], workers: int, targets: list[str], most_apart: int) -> Counter[str]:
    """Renders, while one of `targets` after the other is killed; returns how many were."""
    chance, kills, end = random.Random(15), Counter[str](), time.monotonic() + 60 * MINUTES
    driver = start(out, lines, workers)
    for target in targets:
        enough = len(ledger_lines(out)) + chance.randint(1, most_apart)
        while len(ledger_lines(out)) < enough and driver.is_alive() and time.monotonic() < end:
            time.sleep(0.003)
        time.sleep(0.1 * chance.random())  # any moment of a job, a line or a file
        living = [pid for pid in workers_of(out) if alive(pid)]
        if target == "worker" and living:
            os.kill(chance.choice(living), signal.SIGKILL)
        elif target == "driver" and driver.is_alive():
            driver.kill()
            driver.join()
            driver = start(out, lines, workers)
        else:
            continue
        kills[target] += 1
    driver.join(max(1.0, end - time.monotonic()))
    assert driver.exitcode == 0
    return kills


@pytest.mark.parametrize(
    ("workers", "jobs", "targets"),
    [
        (1, 40, ["driver"] * 3),
        pytest.param(1, 1000, ["driver"] * 40, marks=pytest.mark.slow),
        pytest.param(2, 1000, ["worker"] * 10 + ["driver"] * 10, marks=pytest.mark.slow),
    ],
)
def test_each_job_is_rendered_once_and_alike_whoever_is_killed(
    workers: int, jobs: int, targets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Any] = [{"prompt": f"prompt {number}", "repeat": 4} for number in range(jobs // 4)]
    monkeypatch.setattr("accel.loading.load_pipeline", hands.load)
    random.Random(jobs).shuffle(targets)
    kills = kill_some(tmp_path / "killed", lines, workers, targets, max(2, jobs // len(targets)))
    print(f"\n{jobs} jobs, {workers} workers: {dict(kills)} killed")
    assert sum(kills.values()) >= len(targets) // 2, "they were too fast for this test to mean anything"

    again = drive(tmp_path / "killed", lines, 1)
    assert (again.before, again.rendered, again.left) == (jobs, 0, 0)
    check_exactly_once(tmp_path / "killed", jobs)
    rows = (tmp_path / "killed" / "ledger.jsonl").read_bytes().splitlines()
    torn = sum(bool(row) and entry_of(row) is None for row in rows)
    assert RenderLedger(tmp_path / "killed").torn == torn <= kills["driver"]

    drive(tmp_path / "single", lines, 1)
    assert contents(tmp_path / "killed") == contents(tmp_path / "single")
