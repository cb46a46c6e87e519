"""`accel tune` on the command line: what it writes and says, and its exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accel.cli import main
from accel.recipe import Recipe
from tests import shallow

SHORT = ["--steps", "8", "--frames", "1", "--size", "32", "--prompts", "2", "--levers", "cache", "--minutes", "2"]


@pytest.fixture(scope="module", autouse=True)
def hurried() -> Iterator[None]:
    """Of twelve candidates that may be verified, one, on two clips and not on six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accel.tuning.tuner.VERIFICATIONS", 1)
        patch.setattr("accel.tuning.clip_split.FEWEST_HELD_OUT", 2)
        patch.setattr("accel.loading.load_pipeline", lambda model, **_: shallow.load(model.removeprefix("pocket:")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tuning that goes on: the second goal finds the runs of the first."""
    return tmp_path_factory.mktemp("tuning")


def tune(out: Path, *goal: str) -> int:
    return main(["tune", "pocket:small", *goal, *SHORT, "--out", str(out)])


def test_it_writes_the_recipe_and_the_evidence_and_says_where(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(folder, "--min-psnr", "20") == 0
    printed = capsys.readouterr().out
    assert "PSNR at least 20: met with" in printed
    assert str(folder / "recipe.json") in printed and str(folder / "evidence.html") in printed
    assert Recipe.load(folder / "recipe.json").evidence["met"]


def test_what_cannot_be_met_is_code_1_and_leaves_what_comes_nearest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(folder, "--target-speedup", "40") == 1
    assert "40x cannot be reached" in capsys.readouterr().err
    assert not Recipe.load(folder / "recipe.json").evidence["met"]


def test_ctrl_c_says_that_the_runs_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("accel.tuning.tuner.Tuner.work", interrupt)
    assert tune(tmp_path, "--min-psnr", "20") == 130
    assert f"the runs so far are in {tmp_path}" in capsys.readouterr().err


def test_a_goal_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(tmp_path) == 2
    assert "say either what quality is needed" in capsys.readouterr().err
