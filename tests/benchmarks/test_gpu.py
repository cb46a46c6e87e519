"""`make gpu` goes on after what fails or takes too long, keeps what was said, and does nothing twice."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import DRY, NO_GPU, PARTS, Part, command, report, run_parts


def part(name: str, code: str, bound: int = 60) -> Part:
    return Part(name, (sys.executable, "-c", code), bound, name.title())


GOOD = part("good", "print('| a | table |')")
BAD = part("bad", "print('as far as it came'); raise SystemExit(3)")
ENDLESS = part("endless", "import time; print('begun', flush=True); time.sleep(600)", bound=2)


def test_every_part_is_tried_and_keeps_what_it_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_parts((BAD, ENDLESS, GOOD), tmp_path)
    assert "bad: failed with exit code 3\nendless: stopped after its 2 s\ngood: ended" in capsys.readouterr().out
    text = report((BAD, ENDLESS, GOOD), tmp_path, "A GPU").read_text()
    assert text.startswith("# A GPU\n")
    assert "as far as it came" in text and "begun" in text and "\n| a | table |\n" in text


def test_what_has_ended_is_not_run_again_and_what_has_not_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_parts((GOOD, BAD), tmp_path)
    capsys.readouterr()
    run_parts((GOOD, part("bad", "print('better')")), tmp_path)
    assert "good: ended in an earlier run\nbad: ended" in capsys.readouterr().out
    assert (tmp_path / "bad.txt").read_text() == "better\n"


def test_all_parts_together_take_less_than_ten_minutes() -> None:
    assert sum(part.bound for part in PARTS) < 600


class Read(Exception):
    """The command has read its arguments."""


@pytest.mark.parametrize("one", [*PARTS, *DRY], ids=lambda one: one.name)
def test_every_part_is_a_command_that_there_is(one: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, flag, module, *_ = command(one, tmp_path)
    arguments = command(one, tmp_path)[3:]
    if module == "pytest":
        assert (flag, arguments[0]) == ("-m", "-q") and all(Path(file).is_file() for file in arguments[1:])
        return
    read = argparse.ArgumentParser.parse_args

    def reading(self: argparse.ArgumentParser, *given: Any) -> Any:
        read(self, *given)
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", reading)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(Read):
        importlib.import_module(module).main()


def without_gpu(monkeypatch: pytest.MonkeyPatch, *parts: Part) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "DRY", parts)


def test_without_a_gpu_the_dry_run_is_made_anew_every_time_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_gpu(monkeypatch, GOOD)
    for _ in range(2):
        assert gpu.main(["--out", str(tmp_path)]) == 0
        good, said = capsys.readouterr().out.splitlines()
        assert good.startswith("good: ended after") and said == NO_GPU


@pytest.mark.slow
def test_the_dry_run_measures_steps_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make gpu` does without a GPU, but for the models and the tests, which are in this suite anyway."""
    _, shapes = DRY
    arguments = ("--only", "none of the models", "--rounds", "1")
    without_gpu(monkeypatch, shapes._replace(command=(*shapes.command[:3], *arguments), bound=600))
    assert gpu.main(["--out", str(tmp_path)]) == 0
    assert "| all four |" in (tmp_path / "dry-run" / f"{shapes.name}.txt").read_text(encoding="utf-8")


def test_a_dry_run_that_fails_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_gpu(monkeypatch, BAD, GOOD)
    assert gpu.main(["--out", str(tmp_path)]) != 0
    said = capsys.readouterr()
    assert "The dry run failed (bad)" in said.out + said.err and NO_GPU not in said.out
