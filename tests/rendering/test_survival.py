"""Two hundred videos of the pocket model, while workers and drivers are killed at random. Minutes each.

The numbers of a run are printed: pytest --slow -s tests/rendering/test_survival.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rendering.studio import check_exactly_once, ledger_lines
from tests.rendering.test_processes import alive, contents, workers_of

JOBS = 200
KILLS = ["worker"] * 8 + ["driver"] * 4
MINUTES = 20

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes, all of this machine."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    found.add_node(**small)
    yield str(found.address)
    ray.shutdown()
    found.shutdown()


def manifest(folder: Path) -> Path:
    """The poisoned line asks for a size that the model does not have, which only its call finds out."""
    lines: list[dict[str, Any]] = [
        {"prompt": f"a red circle number {number}", "repeat": 4} for number in range(JOBS // 4)
    ]
    lines.insert(20, {"prompt": "poison", "size": 60})
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(folder: Path, out: Path, *options: str) -> list[str]:
    program = [sys.executable, "-c", "import sys; from accel.cli import main; sys.exit(main())", "render"]
    return [
        *program,
        str(folder / "manifest.jsonl"),
        "--model",
        "pocket:few",
        "--recipe",
        "off",
        "--out",
        str(out),
        *options,
    ]


def survive(driving: list[str], out: Path) -> Counter[str]:
    """Runs the driver, kills somebody every few videos, starts it again where it was the one, and counts the kills."""
    chance, kills = random.Random(0), Counter[str]()
    targets = chance.sample(KILLS, len(KILLS))
    end = time.monotonic() + 60 * MINUTES
    driver = subprocess.Popen(driving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for target in targets:
            enough = len(ledger_lines(out)) + chance.randrange(2, 20)
            while len(ledger_lines(out)) < enough and driver.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(0.2 * chance.random())
            living = [pid for pid in workers_of(out) if alive(pid)]
            if target == "worker" and living:
                os.kill(chance.choice(living), signal.SIGKILL)
            elif target == "driver" and driver.poll() is None:
                driver.kill()
                assert driver.wait() == -signal.SIGKILL
                driver = subprocess.Popen(driving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            else:
                continue
            kills[target] += 1
        assert driver.wait(max(1.0, end - time.monotonic())) == 1, "the poisoned line failed, and all else is there"
    finally:
        driver.kill()
    return kills


@pytest.mark.parametrize(("engine", "batch"), [("local", "1"), ("local", "auto"), ("ray", "1"), ("ray", "auto")])
def test_workers_and_drivers_are_killed_and_every_video_is_there_once(
    engine: str, batch: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the files are those of a single process, bit for bit, but for batches that were taken apart, because they
    lost two workers.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--workers", "2", "--batch", batch]
    if engine == "ray":
        options += ["--engine", "ray", "--address", request.getfixturevalue("cluster")]
    manifest(tmp_path)
    start = time.monotonic()
    kills = survive(command(tmp_path, tmp_path / "killed", *options), tmp_path / "killed")
    seconds = time.monotonic() - start
    assert kills["worker"] >= 4 and kills["driver"] >= 3, "they were too fast for this test to mean anything"
    check_exactly_once(tmp_path / "killed", JOBS)
    failed = [entry for entry in ledger_lines(tmp_path / "killed") if entry["status"] == "failed"]
    assert [entry["line"]["prompt"] for entry in failed] == ["poison"]

    single = subprocess.run(command(tmp_path, tmp_path / "single", "--batch", batch), capture_output=True)
    assert single.returncode == 1
    ours, theirs = contents(tmp_path / "killed"), contents(tmp_path / "single")
    apart = {entry["id"] for entry in ledger_lines(tmp_path / "killed") if entry["status"] == "ok"}
    apart -= {entry["id"] for entry in ledger_lines(tmp_path / "killed") if entry.get("notes") or batch == "1"}
    print(f"\n{engine}, batch {batch}: {dict(kills)} killed, {seconds:.0f} s, {len(apart)} videos taken out of batches")
    assert set(ours) == set(theirs) and len(apart) <= JOBS // 5
    assert {key: value for key, value in ours.items() if key not in apart} == {
        key: value for key, value in theirs.items() if key not in apart
    }
