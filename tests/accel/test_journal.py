"""A file of runs goes on where a crash cut it off, and says what is wrong with it in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from accel.app.pair import Vote
from accel.app.settings import StudioSettings
from accel.app.votes import Votes
from accel.journal import Journal, rows_of
from accel.tuning import models, trials
from benchmarks import another_clip, best_of, judged_runs
from benchmarks.models import Measured, once

SETTINGS = {"seed": 0, "steps": [4, 8]}
HEAD = json.dumps({"settings": SETTINGS})


@dataclass(frozen=True)
class Clip:
    key: str
    psnr: float


FIRST, SECOND = Clip("first", 40.0), Clip("second", 30.0)
SECOND_LINE = json.dumps(asdict(SECOND))


def journal(folder: Path) -> Journal[Clip]:
    return Journal(folder / "deeper" / "runs.jsonl", SETTINGS, Clip)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two runs."""
    kept = journal(tmp_path)
    kept.add(FIRST)
    kept.add(SECOND)
    return tmp_path / "deeper" / "runs.jsonl"


def test_a_file_holds_its_settings_and_a_line_for_each_run(file: Path, tmp_path: Path) -> None:
    assert file.read_text().splitlines() == [HEAD, json.dumps(asdict(FIRST)), SECOND_LINE]
    assert dict(journal(tmp_path)) == {"first": FIRST, "second": SECOND}
    assert rows_of(file, Clip) == [FIRST, SECOND] and rows_of(tmp_path / "none", Clip) == []


def test_no_run_is_made_twice(file: Path, tmp_path: Path) -> None:
    before, kept = file.read_text(), journal(tmp_path)
    assert kept.once("first", lambda: pytest.fail("it is there")) == FIRST
    third = kept.once("third", lambda: Clip("third", 20.0))
    assert journal(tmp_path)["third"] == third and file.read_text().startswith(before)


def test_the_last_run_of_a_key_counts(file: Path, tmp_path: Path) -> None:
    journal(tmp_path).add(Clip("first", 50.0))
    assert journal(tmp_path)["first"].psnr == 50.0 and len(file.read_text().splitlines()) == 4


def test_runs_of_processes_beside_are_known_and_not_written(file: Path, tmp_path: Path) -> None:
    kept = Journal(tmp_path / "own.jsonl", {}, Clip, beside=[file])
    kept.add(Clip("third", 20.0))
    assert list(kept) == ["first", "second", "third"]
    assert list(rows_of(tmp_path / "own.jsonl", Clip)) == [kept["third"]]


def test_without_a_file_the_runs_are_this_process_own() -> None:
    assert Journal(None, SETTINGS, Clip).add(FIRST) == FIRST


@pytest.mark.parametrize("cut", range(1, len(SECOND_LINE) + 1))
def test_a_line_that_was_cut_off_anywhere_is_forgotten_and_overwritten(file: Path, tmp_path: Path, cut: int) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: -cut - 1])
    kept = journal(tmp_path)
    assert list(kept) == ["first"]
    kept.add(SECOND)
    assert file.read_bytes() == whole


def test_a_line_that_only_lacks_its_end_counts(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    journal(tmp_path).add(Clip("third", 20.0))
    assert list(journal(tmp_path)) == ["first", "second", "third"]


@pytest.mark.parametrize("head", ["", '{"settings": {"seed": 0, "st'])
def test_a_head_that_was_cut_off_is_written_again(file: Path, tmp_path: Path, head: str) -> None:
    file.write_text(head)
    journal(tmp_path).add(FIRST)
    assert list(journal(tmp_path)) == ["first"]


ODD = ['{"key": "a', "7", "null", "[]", '{"key": "a"}', '{"key": "a", "psnr": "high"}', "[" * 99, "\xff"]


@pytest.mark.parametrize("odd", ODD)
def test_any_other_line_that_is_no_run_is_named(file: Path, tmp_path: Path, odd: str) -> None:
    file.write_bytes(b"\n".join([HEAD.encode(), odd.encode("latin-1"), SECOND_LINE.encode(), b""]))
    with pytest.raises(ValueError, match=r"runs.jsonl: line 2 is no run that was written here: delete that line"):
        journal(tmp_path)


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        ({"settings": SETTINGS | {"seed": 1}}, r"other settings \(seed\), which it keeps: choose another folder"),
        ({"settings": SETTINGS | {"more": 1}}, r"other settings \(more\), which it keeps: choose another folder"),
        (SETTINGS, "of an earlier version or no file of ours: choose another folder"),
        (asdict(FIRST), "of an earlier version or no file of ours: choose another folder"),
        ([], "of an earlier version or no file of ours: choose another folder"),
    ],
)
def test_a_file_of_other_settings_is_refused_and_kept(file: Path, tmp_path: Path, head: Any, sentence: str) -> None:
    file.write_text(json.dumps(head) + "\n" + SECOND_LINE + "\n")
    before = file.read_bytes()
    with pytest.raises(ValueError, match=sentence):
        journal(tmp_path)
    assert file.read_bytes() == before


def test_what_is_no_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "deeper" / "runs.jsonl").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"runs.jsonl cannot be read: it is no file\."):
        journal(tmp_path)


User = Callable[[Path, bool], Any]
# What keeps such files: each makes its journal in a folder, with `add` keeps one run there, and says what it knows.


def _tuning(which: str, row: Any) -> User:
    def use(folder: Path, add: bool) -> Any:
        kept = getattr(trials.TrialRunner(lambda **call: None, [], 4, {}, {}, folder, {}), which)
        if add:
            kept.add(row)
        return dict(kept)

    return use


def _models(folder: Path, add: bool) -> Any:
    kept = Journal(folder / models.RUNS, {"seed": 0}, models.ChoiceRun)
    if add:
        kept.add(models.ChoiceRun("base", "a prompt", 0, 1.0, 2.0))
    return dict(kept)


def _best_of(folder: Path, add: bool) -> Any:
    kept = best_of.kept(folder, {"seeds": 6})
    if add:
        kept.add(best_of.Outcome("random", "a prompt", 0, True, 1.0, 2.0))
    return dict(kept)


def _another_clip(folder: Path, add: bool) -> Any:
    kept = another_clip.kept(folder, (0, 2), {"prompt_seed": 11})
    if add:
        kept.add(another_clip.OneClip("all levers", "a prompt", True, 2.0, 30.0))
    return dict(kept)


def _measured(folder: Path, add: bool) -> Any:
    kept = Journal(folder / "models.jsonl", {}, Measured)
    return [once(kept, "key", lambda: [1.0])] if add else list(kept)


def _judged(folder: Path, add: bool) -> Any:
    kept, case = judged_runs.kept_in(folder / "waves.jsonl"), judged_runs.Case("waves", "euler", 2.0, 50)
    if add:
        kept.add(judged_runs.Run(case, "plain: 50 steps", 0, 99.0, 50, 2.0))
    return judged_runs.read(folder)


def _votes(folder: Path, add: bool) -> Any:
    """No journal, because lines of others are skipped, but written by the same function."""
    votes = Votes(folder / "votes.jsonl")
    if add:
        votes.add(Vote("a pair", "same", "ann", StudioSettings(), {}, 0.0))
    return votes.all()


USERS = [
    (trials.JOURNAL, _tuning("trials", trials.Trial("key", 0, {"psnr": 30.0}, 0.5, 0.5, {}))),
    (trials.GLANCES, _tuning("_glances", trials.Glance("key", False, "too few tokens"))),
    (trials.UNACCELERATED, _tuning("_unaccelerated", trials.UnacceleratedRun(0, 2.0, 1.0))),
    (models.RUNS, _models),
    (best_of.ROWS, _best_of),
    ("part-0-of-2.jsonl", _another_clip),
    ("models.jsonl", _measured),
    ("waves.jsonl", _judged),
]


@pytest.fixture
def no_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "environment", lambda pipe: {"device": "cpu"})


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.parametrize(("name", "user"), [*USERS, ("votes.jsonl", _votes)])
def test_every_file_of_runs_goes_on_after_a_crash(name: str, user: User, tmp_path: Path) -> None:
    path = tmp_path / name
    user(tmp_path, True)
    kept, whole = user(tmp_path, False), path.read_bytes()
    path.write_bytes(whole[:-9])
    assert len(kept) == 1 and not user(tmp_path, False)
    user(tmp_path, True)
    assert user(tmp_path, False) == kept and path.read_bytes() == whole


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.parametrize(("name", "user"), [user for user in USERS if user[1] is not _measured])
def test_every_line_with_a_word_for_a_number_is_no_run(name: str, user: User, tmp_path: Path) -> None:
    user(tmp_path, True)
    text = (tmp_path / name).read_text()
    for number in re.findall(r"(?<=: )\d+\.\d+", text):
        (tmp_path / name).write_text(text.replace(number, '"high"', 1))
        with pytest.raises(ValueError, match=f"{name}: line 2 is no run that was written here"):
            user(tmp_path, False)


@pytest.mark.usefixtures("no_pipeline")
@pytest.mark.parametrize(("name", "user"), USERS)
def test_every_file_of_an_earlier_version_is_refused_and_kept(name: str, user: User, tmp_path: Path) -> None:
    (tmp_path / name).write_text(old := '{"schema": 1}\n["base", "a prompt", 1.0, 2.0]\n')
    with pytest.raises(ValueError, match=f"{name} does not begin with the settings of its runs"):
        user(tmp_path, False)
    assert (tmp_path / name).read_text() == old
