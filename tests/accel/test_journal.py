"""A file of runs goes on where a crash cut it off, and says what is wrong with it in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accel.app.pair import Vote
from accel.app.settings import StudioSettings
from accel.app.votes import Votes
from accel.journal import Journal, append_line, entries_of
from accel.tuning import models, trials
from accel.tuning.trials import Trial, TrialRunner
from benchmarks import holds
from benchmarks.best_of import Outcome
from benchmarks.best_of import kept as kept_outcomes
from benchmarks.models import KeptAnswers

HEAD = {"seed": 0, "steps": [4, 8]}
FIRST, SECOND = {"psnr": 40.0}, {"psnr": 30.0}


def journal(folder: Path) -> Journal[float]:
    return Journal(folder / "deeper" / "runs.jsonl", HEAD, lambda data: float(data["psnr"]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two runs."""
    kept = journal(tmp_path)
    kept.add(FIRST)
    kept.add(SECOND)
    return kept.path


def test_a_file_holds_its_settings_and_a_line_for_each_run(file: Path, tmp_path: Path) -> None:
    assert [json.loads(line) for line in file.read_text().splitlines()] == [HEAD, FIRST, SECOND]
    assert journal(tmp_path).entries == [40.0, 30.0]
    assert entries_of(file, dict, headed=True) == [FIRST, SECOND] and entries_of(tmp_path / "none", dict) == []


@pytest.mark.parametrize("cut", range(1, len(json.dumps(SECOND)) + 1))
def test_a_line_that_was_cut_off_anywhere_is_forgotten_and_overwritten(file: Path, tmp_path: Path, cut: int) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: -cut - 1])
    kept = journal(tmp_path)
    assert kept.entries == [40.0]
    kept.add(SECOND)
    assert file.read_bytes() == whole


def test_a_line_that_only_lacks_its_end_counts(file: Path, tmp_path: Path) -> None:
    """Journals of earlier versions begin their lines with the line break, so that there is an empty one too."""
    file.write_text(json.dumps(HEAD) + "\n\n" + json.dumps(FIRST))
    kept = journal(tmp_path)
    kept.add(SECOND)
    assert kept.entries == [40.0] and journal(tmp_path).entries == [40.0, 30.0]


@pytest.mark.parametrize("head", ["", '{"seed": 0, "st'])
def test_a_head_that_was_cut_off_is_written_again(file: Path, tmp_path: Path, head: str) -> None:
    file.write_text(head)
    journal(tmp_path).add(FIRST)
    assert journal(tmp_path).entries == [40.0]


@pytest.mark.parametrize("wrong", ['{"psnr": 4', "7", "null", '{"other": 1}', '{"psnr": "high"}', "[" * 99, "\xff"])
def test_any_other_line_that_is_no_run_is_named(file: Path, tmp_path: Path, wrong: str) -> None:
    file.write_bytes(b"\n".join([json.dumps(HEAD).encode(), wrong.encode("latin-1"), json.dumps(FIRST).encode(), b""]))
    with pytest.raises(ValueError, match=r"runs.jsonl: line 2 is no run that was written here: delete that line"):
        journal(tmp_path)


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (json.dumps(HEAD | {"seed": 1}), r"settings \(seed\)"),
        (json.dumps(HEAD | {"more": 1}), r"settings \(more\)"),
        ("[]", "settings"),
        ("# my notes", "settings"),
    ],
)
def test_other_settings_are_refused(file: Path, tmp_path: Path, head: str, named: str) -> None:
    file.write_text(head + "\n")
    with pytest.raises(ValueError, match=f"holds runs with other {named}: choose another folder"):
        journal(tmp_path)
    assert file.read_text() == head + "\n"


def test_what_is_no_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "deeper" / "runs.jsonl").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"runs.jsonl cannot be read: it is no file\."):
        journal(tmp_path)


OUTCOME = Outcome("random", "a prompt", 0, True, 1.0, 2.0)
RUN = holds.Run(holds.Case("waves", "euler", 2.0, 50), "plain: 50 steps", 0, 99.0, 50, 2.0)
VOTE = Vote("a pair", "same", "ann", StudioSettings(), {}, 0.0)


def _trials(folder: Path, monkeypatch: pytest.MonkeyPatch, add: bool) -> Any:
    monkeypatch.setattr(trials, "environment", lambda pipe: {"device": "cpu"})
    runner = TrialRunner(SimpleNamespace(), [], 4, {}, {}, folder, {})
    if add:
        runner._journal.add({"trial": asdict(Trial("key", 0, {"psnr": 30.0}, 0.5, 0.5, {}))})
    return list(runner.trials)


def _models(folder: Path, _: Any, add: bool) -> Any:
    kept = models._KeptRuns(folder / models.RUNS, {"seed": 0})
    if add:
        kept.add("base", "a prompt", models.KeptRun(1.0, 2.0))
    return list(kept.runs)


def _best_of(folder: Path, _: Any, add: bool) -> Any:
    kept = kept_outcomes(folder, {"seeds": 6})
    if add:
        kept.add(OUTCOME)
    return kept.rows


def _answers(folder: Path, _: Any, add: bool) -> Any:
    kept = KeptAnswers(folder / "answers.jsonl")
    return [kept.get("key", lambda: [1.0]), kept.known] if add else list(kept.known.items())


def _holds(folder: Path, _: Any, add: bool) -> Any:
    if add:
        append_line(folder / "waves.jsonl", json.dumps(asdict(RUN)))
    return holds.read(folder)


def _votes(folder: Path, _: Any, add: bool) -> Any:
    votes = Votes(folder / "votes.jsonl")
    if add:
        votes.add(VOTE)
    return votes.all()


@pytest.mark.parametrize("user", [_trials, _models, _best_of, _answers, _holds, _votes])
def test_every_file_of_runs_goes_on_after_a_crash(
    user: Callable[[Path, pytest.MonkeyPatch, bool], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user(tmp_path, monkeypatch, True)
    kept, path = user(tmp_path, monkeypatch, False), next(tmp_path.glob("*.jsonl"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert len(kept) == 1 and user(tmp_path, monkeypatch, False) == []
    user(tmp_path, monkeypatch, True)
    assert user(tmp_path, monkeypatch, False) == kept and path.read_bytes() == whole
