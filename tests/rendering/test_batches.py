"""Which jobs share a call: a function of the manifest, whatever is rendered already and whoever dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import accel
from accel.rendering.batches import AUTO, Batch, make_batches, may_share_call
from accel.rendering.jobs import Job, JobGroup
from accel.rendering.work_queue import WorkQueue
from tests.rendering.studio import check_exactly_once, ledger_lines, worded
from tests.rendering.test_render import render, still

STATIC = accel.Recipe(cache=accel.OptimalSchedule(0.5)).to_dict()
MEASURING = accel.Recipe(cache=accel.TeaCache(0.1)).to_dict()


class Videos:
    """Only its call's signature is looked at."""

    def __call__(self, prompt: str, height: int = 64, width: int = 64, num_frames: int = 17) -> None: ...


class Pictures:
    def __call__(self, prompt: str, height: int | None = None, width: int | None = None) -> None: ...


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        ({}, Videos, 8),
        ({"frames": 81}, Videos, 3),
        ({"width": 832, "height": 480}, Videos, 1),
        ({}, Pictures, 1),
        ({"width": 512, "height": 512}, Pictures, 4),
        ({"width": 512, "height": 512}, None, 1),
        ({"width": 512, "height": 512, "frames": 1}, None, 4),
        ({"recipe": STATIC}, Videos, 8),
        ({"recipe": MEASURING}, Videos, 1),
        ({"recipe": {"guidance": {"method": "AdaptiveGuidance"}}}, Videos, 1),
        ({"image": "/a.png"}, Videos, 1),
        ({"prompt": None, "arguments": {"x": 1}}, Videos, 1),
    ],
)
def test_auto_takes_small_jobs_together(fields: dict[str, Any], kind: type | None, expected: int) -> None:
    """Up to 8, and up to the pixels of one picture of 1024x1024, where the recipe decides without looking."""
    job = Job("m", **({"prompt": "a"} | fields))
    assert may_share_call(job, AUTO, lambda model: kind) == expected
    assert may_share_call(job, 1, lambda model: kind) == 1


def calls(jobs: list[Job], pending: list[Job], batch: Batch = 3) -> list[tuple[list[str], list[str]]]:
    found = make_batches(jobs, {job.id for job in pending}, batch, lambda model: None)
    return [([str(job.prompt) for job in call.jobs], [str(job.prompt) for job in call.open]) for call in found]


def test_batches_are_cut_from_all_jobs_and_not_from_those_that_are_left() -> None:
    a, b, c, d, e = jobs = [Job("m", prompt=letter) for letter in "abcde"]
    assert calls(jobs, jobs) == [(["a", "b", "c"], ["a", "b", "c"]), (["d", "e"], ["d", "e"])]
    assert calls(jobs, [b, c]) == [(["a", "b", "c"], ["b", "c"])]
    assert calls(jobs, [e]) == [(["d", "e"], ["e"])]
    assert calls(jobs, [a, d], batch=1) == [(["a"], ["a"]), (["d"], ["d"])]


def test_a_batch_is_tried_again_whole_and_then_taken_apart() -> None:
    a, b, c = jobs = [Job("m", prompt=letter) for letter in "abc"]
    pieces = WorkQueue([JobGroup(tuple(jobs))])

    def taken() -> JobGroup:
        piece = pieces.take(None, [], unburdened=True)
        assert piece is not None
        return piece

    assert taken().open == (a, b, c)
    assert pieces.after_death([b, c]) == []  # the first one had its outcome when the worker died
    again = taken()
    assert again.jobs == (a, b, c) and again.open == (b, c) and pieces.is_suspect(again)
    assert pieces.after_death([b, c]) == [] and len(pieces) == 2
    assert [taken().jobs, taken().jobs] == [(b,), (c,)]
    assert pieces.after_death([c]) == [c], "the third death is its own fault"


def test_what_a_crash_left_out_is_the_same_bits_afterwards(tmp_path: Path) -> None:
    """Any part of a batch may be missing; the rest is rendered along, and neither recorded nor written again."""
    lines = [still(f"prompt {number}", seed=number) for number in range(7)] + [still("poison")]
    summary = render(worded(), lines, tmp_path, batch=3)
    assert (summary.rendered, summary.failed) == (7, 1)
    before = {entry["id"]: (entry["sha256"], entry.get("notes")) for entry in ledger_lines(tmp_path)[:7]}
    rows = (tmp_path / "ledger.jsonl").read_text().splitlines(keepends=True)
    lost = [0, 2, 4]
    for number in lost:
        (tmp_path / ledger_lines(tmp_path)[number]["file"]).unlink()
    (tmp_path / "ledger.jsonl").write_text("".join(row for number, row in enumerate(rows) if number not in lost))
    pipe = worded()
    assert render(pipe, lines, tmp_path, batch=3).rendered == 3
    assert [len(call) for call in pipe.calls] == [3, 3]
    check_exactly_once(tmp_path, 7)
    done = [entry for entry in ledger_lines(tmp_path) if entry["status"] == "ok"]
    assert {entry["id"]: (entry["sha256"], entry.get("notes")) for entry in done} == before
