"""Drivers that are killed without warning, at random moments. Each is a forked process, because those start at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import accel
from accel.rendering.folder import OutputFolder
from tests.rendering.studio import SMALL, check_exactly_once, ledger_lines, worded

JOBS = 24
LINES = [{"prompt": f"prompt {number}", "repeat": 4, "frames": 1} for number in range(JOBS // 4)]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def drive(out: str, shard: str | None = None) -> None:
    accel.render(worded(), LINES, out, defaults=SMALL, progress_bar=False, shard=shard)


def killed(out: Path, after: int, delay: float, shard: str | None = None) -> bool:
    """Runs a driver and kills it `delay` seconds after it has written so many more lines; whether it was in time."""
    before = len(ledger_lines(out))
    driver = multiprocessing.get_context("fork").Process(target=drive, args=(str(out), shard))
    driver.start()
    end = time.monotonic() + 600
    while driver.is_alive() and len(ledger_lines(out)) < before + after and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(delay)
    assert driver.pid is not None
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    return driver.exitcode == -signal.SIGKILL


@pytest.mark.slow  # test_random_kills.py kills drivers too, one at a time
def test_a_driver_killed_again_and_again_renders_each_job_once(tmp_path: Path) -> None:
    chance = random.Random(0)
    deaths = sum(killed(tmp_path, chance.randrange(1, 3), chance.random() * 0.02) for _ in range(8))
    assert deaths >= 5, "the drivers were too fast for this test to mean anything"
    lost = {entry["id"] for entry in ledger_lines(tmp_path)}
    drive(str(tmp_path))
    check_exactly_once(tmp_path, JOBS)
    assert len(lost) < JOBS, "nothing was left to resume"
    uninterrupted = tmp_path / "uninterrupted"
    drive(str(uninterrupted))
    assert files(tmp_path) == files(uninterrupted)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_a_killed_shard_leaves_the_others_alone(tmp_path: Path) -> None:
    assert killed(tmp_path, 3, 0.0, shard="1/2")
    (tmp_path / ".accel" / "parts-1-of-2" / "rest.part").write_bytes(b"cut off")
    drive(str(tmp_path), "2/2")
    assert (tmp_path / ".accel" / "parts-1-of-2" / "rest.part").exists()
    drive(str(tmp_path))
    check_exactly_once(tmp_path, JOBS)


def test_a_file_whose_line_is_written_is_finished_and_not_rendered_again(tmp_path: Path) -> None:
    """The moments around the one in which a finished part gets its name."""
    pipe = worded()
    accel.render(pipe, LINES[:1], tmp_path, defaults=SMALL, progress_bar=False)
    entries, calls = ledger_lines(tmp_path), len(pipe.calls)
    part, file = tmp_path / ".accel" / entries[0]["part"], tmp_path / entries[0]["file"]

    def resume() -> None:
        accel.render(pipe, LINES[:1], tmp_path, defaults=SMALL, progress_bar=False)

    file.rename(part)  # the line is there, the name is not
    resume()
    assert len(pipe.calls) == calls
    check_exactly_once(tmp_path, 4)

    shutil.copy(file, part)  # the name is there, and the part is not gone yet
    resume()
    assert len(pipe.calls) == calls
    check_exactly_once(tmp_path, 4)

    OutputFolder(tmp_path).parts.joinpath("other.part").write_bytes(b"cut off")  # a part without a line
    file.rename(part)
    part.write_bytes(part.read_bytes()[:-1])  # a part that is not whole does not count
    resume()
    assert len(pipe.calls) == calls + 1


def test_a_torn_last_line_costs_one_job_only(tmp_path: Path) -> None:
    pipe = worded()
    accel.render(pipe, LINES[:1], tmp_path, defaults=SMALL, progress_bar=False)
    ledger = tmp_path / "ledger.jsonl"
    last = ledger_lines(tmp_path)[-1]
    ledger.write_bytes(ledger.read_bytes()[:-40])
    (tmp_path / last["file"]).unlink()  # a line is torn before its file has a name
    summary = accel.render(pipe, LINES[:1], tmp_path, defaults=SMALL, progress_bar=False)
    assert (summary.before, summary.rendered) == (3, 1)
    assert "1 torn lines in the ledger" in str(summary)
    check_exactly_once(tmp_path, 4)


@pytest.mark.slow
def test_the_command_killed_and_run_again(tmp_path: Path) -> None:
    """The same through the command line, with the pocket model."""
    rows = [{"defaults": {"size": 32, "frames": 5, "steps": 1}}, {"prompt": "a red circle", "repeat": 30}]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    command = [sys.executable, "-c", "import sys; from accel.cli import main; sys.exit(main())", "render"]
    command += [str(tmp_path / "manifest.jsonl"), "--model", "pocket:few", "--out", str(out)]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 600
    while driver.poll() is None and len(ledger_lines(out)) < 3 and time.monotonic() < end:
        time.sleep(0.002)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert 3 <= len(ledger_lines(out)) < 30
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "30 jobs:" in done.stdout and "there already" in done.stdout
    check_exactly_once(out, 30)
