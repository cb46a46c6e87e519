"""The speeds that are shown keep the promise, and each stands beside an unaccelerated clip of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.fastest import Speeds, judged, table
from benchmarks.judged_runs import Bench, Case, Run, cases, fewer, kept_in, read
from benchmarks.judges import JUDGES
from benchmarks.speeds import HALF, PART, Setting, ours, run_while_kept, settings

CASE = Case("a", "euler", 2.0, 50)


def runs(setting: str, seconds: float, *decibels: float, beside: float = 10.0) -> list[Run]:
    return [Run(CASE, setting, number, value, 25, seconds, beside) for number, value in enumerate(decibels)]


PLAIN_RUNS = [*runs(fewer(50), 10.0, 100, 100), *runs(fewer(20), 4.0, 32, 31), *runs(fewer(10), 2.0, 32, 29)]


def test_the_fastest_keeps_the_promise_in_every_clip() -> None:
    judge = Speeds([*PLAIN_RUNS, *runs("cache: 25", 5.0, 45, 44), *runs("cache: 9", 2.0, 35, 29)])
    assert judge.fastest(["cache"], 30.0) == (2.0, "cache: 25")
    assert judge.fastest(["plain"], 30.0) == (2.5, fewer(20))
    assert judge.fastest(["cache"], 50.0) == (1.0, "")


def test_what_ran_on_some_prompts_alone_promises_nothing() -> None:
    judge = Speeds([*PLAIN_RUNS, *runs("cache: 25", 5.0, 45, 44), *runs("cache: 9", 2.0, 45)])
    assert judge.fastest(["cache"], 30.0) == (2.0, "cache: 25")


def test_speeds_are_by_the_clip_beside_and_not_by_the_first() -> None:
    slow = runs("cache: 25", 10.0, 45, 44, beside=20.0)  # the machine had become half as fast
    assert Speeds([*PLAIN_RUNS, *slow]).fastest(["cache"], 30.0).speed == 2.0


def test_speeds_that_were_measured_once_more_count_and_luck_does_not() -> None:
    """The first clips of "cache: 11" were on an idle machine, and the one beside them was not."""
    first = [*PLAIN_RUNS, *runs("cache: 25", 5.0, 45, 44), *runs("cache: 11", 5.0, 35, 34, beside=11.0)]
    assert Speeds(first).fastest(["cache"], 30.0) == (2.2, "cache: 11")
    again = [*runs("cache: 25", 5.0, 45, 44), *runs("cache: 11", 5.5, 35, 34)]
    assert Speeds(first, again).fastest(["cache"], 30.0) == (2.2, "cache: 11"), "fewer steps were not"
    again += runs(fewer(20), 4.0, 32, 31)
    assert Speeds(first, again).fastest(["cache"], 30.0) == (2.0, "cache: 25")


def test_what_may_be_the_fastest_is_measured_once_more_and_nothing_twice() -> None:
    slow, fast, near = runs("cache: 33", 7.0, 45, 44), runs("cache: 11", 3.0, 35, 34), runs("cache: 13", 3.2, 38, 37)
    judge = Speeds([*PLAIN_RUNS, *slow, *fast, *near], runs("cache: 11", 3.0, 35))
    assert {"cache: 11", "cache: 13"} <= set(judge.finalists(30.0))
    assert judge.untimed("cache: 11") == [1] and judge.untimed("cache: 13") == [0, 1]


def test_clips_are_timed_once_more_in_pairs(tmp_path: Path) -> None:
    case = replace(cases(["photos"])[0], steps=8)
    bench = Bench(case, tmp_path / "photos.jsonl", speeds=True)
    bench.fewer(case.steps, 0)
    bench.fewer(2, 0)
    bench.again(fewer(2), lambda pipe: lambda: None, [0], 2, kept_in(tmp_path / "again.jsonl"))
    [*_, known, run] = sorted(read(tmp_path), key=lambda run: run.computed == 2)
    assert (run.setting, run.psnr) == (known.setting, known.psnr)
    assert run.beside > run.seconds > 0.0


def test_a_setting_that_cannot_keep_the_promise_is_not_run_to_the_end(tmp_path: Path) -> None:
    bench, prompts = Bench(replace(cases(["photos"])[0], steps=6), tmp_path / "photos.jsonl"), range(PART + 2)
    for prompt in prompts:
        bench.fewer(6, prompt)
    for label, steps in (("same", 6), ("other", 1)):
        run_while_kept(bench, label, Setting(lambda pipe: lambda: None, steps), prompts)
    assert bench.below("same", 30.0) == 0 and bench.below("other", 30.0) == PART
    assert [run.setting for run in read(tmp_path)].count("same") == len(prompts)


def test_recipes_of_u_nets_run_where_there_is_one() -> None:
    photos, waves = (settings(JUDGES[name].load(), 50, None) for name in ("photos", "waves"))
    shallow = {label for label in photos if HALF in label}
    assert f"composed, calibrated: 20 of 25 steps, {HALF}" in shallow
    assert shallow.isdisjoint(waves) and set(waves) - shallow


def test_other_libraries_are_told_from_ours_and_have_fewer_steps_too() -> None:
    other = [*runs("other: 0.1", 5.0, 31, 31), *runs("other in fewer steps: 0.1, 25 steps", 2.5, 31, 31)]
    composed = [
        *runs("composed: 9 of 25 steps", 2.0, 31, 30),
        *runs("composed, calibrated: 9 of 20 steps", 1.6, 31, 30),
        *runs("fitted: 7", 1.25, 33, 32),
    ]
    [judge] = judged([*PLAIN_RUNS, *composed, *other])
    assert judge.theirs == ["other"]
    line = list(table([judge], 30.0))[-1]
    assert "| 8.00x (fitted: 7) |" in line
    assert "| 2.00x (other: 0.1) | 4.00x (other in fewer steps: 0.1, 25 steps) | 2.50, 3.12, 4.00 |" in line


def test_a_judge_without_other_libraries_has_no_line() -> None:
    assert judged([*PLAIN_RUNS, *runs("cache: 25", 5.0, 45, 44)]) == []


def test_composed_recipes_compute_what_they_say(tmp_path: Path) -> None:
    case = replace(cases(["photos"])[0], steps=34)
    bench = Bench(case, tmp_path / "photos.jsonl", speeds=True)
    bench.fewer(case.steps, 0)
    bench.ours("composed: 9 of 17 steps", ours(case.steps)["composed: 9 of 17 steps"], [0])
    [run] = [run for run in read(tmp_path) if run.setting == "composed: 9 of 17 steps"]
    assert run.computed == 9
    assert run.beside > run.seconds > 0.0
