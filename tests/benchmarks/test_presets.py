"""A preset follows from the runs: the cheapest setting that keeps its promise on all judges that had a say."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.presets import PRESETS
from benchmarks.judged_runs import Case, Run, fewer, kept_in
from benchmarks.judges import JUDGES
from benchmarks.presets import GRID, by_model, chosen, found_clips, hard_cases, label, main

CHEAP, DEAR = label(GRID[-1]), label(GRID[0])


def runs(judge: str, setting: str, computed: int, decibels: list[float], plain: float = 20.0) -> list[Run]:
    at = Case(judge, "euler", 7.0, 50)
    ours = [Run(at, setting, prompt, psnr, computed, 1.0) for prompt, psnr in enumerate(decibels)]
    return ours + [Run(at, fewer(computed), prompt, plain, computed, 1.0) for prompt in range(len(decibels))]


RUNS = [
    *runs("easy", CHEAP, 12, [45.0] * 20),
    *runs("easy", DEAR, 36, [60.0] * 20),
    *runs("rough", CHEAP, 12, [45.0, 45.0, 19.0, 18.0]),
    *runs("rough", DEAR, 36, [45.0, 45.0, 42.0, 41.0]),
]


def test_the_cheapest_that_keeps_the_promise_on_every_judge_is_chosen() -> None:
    found = found_clips(RUNS)
    assert chosen(found, "lossless") == DEAR
    assert chosen(found, "lossless", without="rough") == CHEAP
    assert chosen(found, "fast", without="easy") == DEAR


def test_the_one_without_a_promise_must_be_above_fewer_steps_on_every_judge() -> None:
    assert chosen(found_clips(RUNS), "turbo") == CHEAP
    worse = [run for run in RUNS if run.case.judge == "easy"] + runs("rough", CHEAP, 12, [19.0] * 4)
    assert chosen(found_clips([*worse, *runs("rough", DEAR, 36, [21.0] * 4)]), "turbo") == DEAR


def test_quality_is_shown_by_model_where_every_preset_has_run() -> None:
    some = [run for rank, preset in enumerate(PRESETS) for run in runs("cells", f"preset {preset}", 30, [50.0 - rank])]
    _, _, *rows = by_model(found_clips(some + runs("waves", "preset fast", 12, [30.0])))
    assert rows == ["| cells | 50.0 | 49.0 | 48.0 | 47.0 |"]


def test_nothing_is_chosen_where_nothing_keeps_the_promise() -> None:
    assert chosen(found_clips(runs("rough", DEAR, 36, [30.0] * 4)), "lossless") is None


def test_clips_without_plain_steps_beside_them_do_not_count() -> None:
    alone = [run for run in runs("easy", CHEAP, 12, [45.0]) if run.setting == CHEAP]
    assert not found_clips(alone)


def test_a_judge_is_asked_where_it_is_hardest() -> None:
    name = next(iter(JUDGES))
    asked = hard_cases([name])
    assert {case.guidance for case in asked} == {JUDGES[name].guidance_scales[1]}
    assert {(case.scheduler, case.steps) for case in asked} == {
        (scheduler, steps) for scheduler in JUDGES[name].schedulers for steps in (50, 28)
    }


def test_the_table_of_kept_runs_needs_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = kept_in(tmp_path / "runs.jsonl")
    for run in RUNS:
        kept.add(run)
    main(["--table", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3 * len(PRESETS)
    assert f"| `lossless` | none | {DEAR} | 0.72 | 100 % | 41.0 | +37.2 |" in lines
    assert f"| `lossless` | rough | {CHEAP} | 0.24 | 50 % | 18.0 | +11.8 |" in lines
