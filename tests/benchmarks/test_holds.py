"""What the tables say follows from the runs: a judge has no say in the setting that it is shown with."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.caching import OptimalSchedule
from accel.recipe import Recipe
from benchmarks.holds import CANDIDATES, SHARES, Tables, main
from benchmarks.judged_runs import Bench, Case, Run, fewer, kept_in, read
from benchmarks.judges import JUDGES

FIRST, SECOND, *_ = CANDIDATES


def case(judge: str) -> Case:
    return Case(judge, "euler", 2.0, 50)


def runs(judge: str, **decibels: float) -> list[Run]:
    """Fewer steps give 20 dB whatever their number, and the first two candidates what is said; these compute two more
    steps than the share.
    """
    at, found = case(judge), []
    for prompt in range(2):
        found += [Run(at, fewer(steps), prompt, 20.0, steps, float(steps)) for steps in range(1, at.steps + 1)]
        for label, value in ((FIRST, decibels["first"]), (SECOND, decibels["second"])):
            for share in SHARES:
                steps = round(share * at.steps) + 2
                found.append(Run(at, f"{label} @ {share:g}", prompt, value, steps, float(steps)))
    return found


def test_a_judge_is_shown_with_the_setting_that_the_others_chose() -> None:
    tables = Tables([*runs("a", first=19, second=25), *runs("b", first=25, second=21), *runs("c", first=25, second=21)])
    assert tables.chosen_without("a") == FIRST  # though it does harm there
    assert tables.chosen_without("b") == SECOND
    line = next(line for line in tables.left_out() if line.startswith(f"| {case('a')}"))
    assert "| 0.54: 20.0 -1.0 (-1.0) |" in line  # half of the steps, and two more


def test_what_an_easy_judge_gains_beyond_enough_does_not_decide() -> None:
    tables = Tables([*runs("a", first=60, second=30), *runs("b", first=19, second=22), *runs("c", first=20, second=20)])
    assert tables.chosen_without("c") == SECOND


def test_runs_that_were_kept_are_not_repeated(tmp_path: Path) -> None:
    name = next(iter(JUDGES))
    at = Case(name, next(iter(JUDGES[name].schedulers)), JUDGES[name].guidance_scales[0], 12)

    def run() -> list[Run]:
        bench = Bench(at, tmp_path / "runs.jsonl")
        bench.plain(1, SHARES)
        bench.ours("half", Recipe(cache=OptimalSchedule(0.5)), [0])
        return read(tmp_path)

    found = run()
    assert {run.setting for run in found} == {"half", *(fewer(round(share * 12)) for share in (1.0, *SHARES))}
    assert next(run.psnr for run in found if run.setting == fewer(12)) > 90
    assert next(run.computed for run in found if run.setting == "half") == 6
    assert run() == found


def test_the_table_of_kept_runs_needs_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = kept_in(tmp_path / "runs.jsonl")
    for run in (*runs("a", first=25, second=21), *runs("b", first=25, second=21)):
        kept.add(run)
    main(["--table", "--out", str(tmp_path)])
    assert f"| {case('a')} | {FIRST} |" in capsys.readouterr().out
