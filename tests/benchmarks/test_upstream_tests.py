"""Diffusers' own tests, with and without: what is read off a run of pytest, and what a session does in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.patch import session_of
from benchmarks import levers_off
from benchmarks.upstream_tests import outcomes, table
from tests.tiny import TINY

TESTS = """
import pytest
def test_one(): pass
def test_other(): assert False
@pytest.mark.skip
def test_third(): pass
"""


def test_each_test_has_its_outcome(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "pipelines" / "some"
    folder.mkdir(parents=True)
    (folder / "test_some.py").write_text(TESTS)
    found = {name.rsplit(".", 1)[1]: told for name, told in outcomes(tmp_path, ["some"], []).items()}
    assert found == {"test_one": "passed", "test_other": "failed", "test_third": "skipped"}


def test_a_line_for_each_folder_says_what_passes_both_ways() -> None:
    one, other, third = (
        f"tests.pipelines.{name}" for name in ("wan.test_wan.A.one", "wan.test_wan.A.two", "dit.b.B.c")
    )
    without = {one: "passed", other: "skipped", third: "passed"}
    assert table(without, {one: "passed", third: "failed"})[2:] == [
        "| dit | 1 | 0 | none |",
        "| wan | 1 | 1 | 1 skipped |",
    ]


def test_a_folder_without_tests_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        outcomes(tmp_path / "nowhere", ["none"], [])


def test_a_pipeline_that_is_made_has_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(TINY["wan"].build())
    monkeypatch.setattr(kind, "__init__", levers_off.attaching(kind, kind.__init__))
    made = kind(**TINY["wan"].build().components)
    assert session_of(made) is not None and type(made).__name__ == kind.__name__
