"""Fitted schedules are judged on prompts that they were not fitted to, beside as many plain steps as they computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import fitted
from benchmarks.fitted import FittedTable, in_order, measure
from benchmarks.judged_runs import Bench, Case, Run, cases, fewer, read

CASE = Case("a", "euler", 2.0, 50)


def run(setting: str, prompt: int, psnr: float, computed: int) -> Run:
    return Run(CASE, setting, prompt, psnr, computed, 1.0)


RUNS = [
    run("fitted @ 0.5", 0, 40.0, 25),
    run("fitted @ 0.5", 1, 50.0, 40),  # a rough clip
    run("optimal @ 0.5", 0, 35.0, 25),
    run("optimal @ 0.5", 1, 20.0, 25),
    run(fewer(25), 0, 30.0, 25),
    run(fewer(25), 1, 26.0, 25),
    run(fewer(40), 1, 44.0, 40),
]


def test_each_clip_is_compared_with_as_many_plain_steps_as_it_computed() -> None:
    table = FittedTable(RUNS)
    assert table.gains(CASE, "fitted", 0.5) == (pytest.approx(0.65), pytest.approx(8.0), pytest.approx(10.0))
    assert table.gains(CASE, "optimal", 0.5) == (pytest.approx(0.5), pytest.approx(-0.5), pytest.approx(-6.0))
    assert table.gains(CASE, "fitted", 0.2) is None


def test_the_table_has_both_and_what_is_not_known_yet_is_left_out() -> None:
    *_, line = FittedTable(RUNS).lines()
    assert line == "| a, euler, 2, 50 steps | 28.0; 0.50: -0.5 (-6.0); 0.65: +8.0 (+10.0) |  |  |"
    summary = list(FittedTable(RUNS).summary())
    assert "| 0.5 | `FittedSchedule` | 0.65 | +8.0 | 1 of 1 cases | 1 | 1 | +8.0 |" in summary
    assert len(summary) == 4


def test_what_holds_least_comes_first() -> None:
    found = in_order(["waves", "photos"])
    assert sorted(map(str, found)) == sorted(map(str, cases(["waves", "photos"])))
    assert [(case.guidance > 2, case.steps) for case in found[::4]] == [
        (True, 28),
        (True, 50),
        (False, 28),
        (False, 50),
    ]


def test_a_case_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "SHARES", (0.5,))
    bench = Bench(replace(cases(["photos"])[0], steps=12), tmp_path / "photos.jsonl")
    measure(bench, prompts=1, measured=1)
    assert {one.setting for one in read(tmp_path)} >= {"fitted @ 0.5", "optimal @ 0.5", fewer(12), fewer(6)}
    monkeypatch.setattr(fitted, "Measurement", None)
    measure(bench, prompts=1, measured=1)
