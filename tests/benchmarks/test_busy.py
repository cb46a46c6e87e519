"""A command beside busy loops: what a fair scheduler makes of it, and that nothing is left running."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import busy


@pytest.mark.parametrize(
    ("threads", "loops", "least"), [(1, 2, 1.5), (2, 2, 2.0), (1, 1, 1.0), (4, 2, 1.5), (2, 0, 1.0)]
)
def test_a_fair_scheduler_gives_each_thread_as_much_as_each_loop(threads: int, loops: int, least: float) -> None:
    assert busy.floor(2, threads, loops) == pytest.approx(least)


def test_the_time_of_a_command_is_its_own() -> None:
    with busy.busy_loops(1):
        found = busy.taken([sys.executable, "-c", "sum(range(10**6))"])
    assert found.processor > 0.0
    assert found.wall > 0.0 and found.load >= 0.0


def test_loops_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(Popen(command))
        return started[-1]

    Popen = subprocess.Popen
    monkeypatch.setattr(busy.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt), busy.busy_loops(2):
        assert all(loop.poll() is None for loop in started)
        raise KeyboardInterrupt
    assert len(started) == 2 and all(loop.poll() is not None for loop in started)


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        busy.taken([sys.executable, "-c", "raise SystemExit(3)"])
