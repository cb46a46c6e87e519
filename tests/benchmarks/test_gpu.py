"""`make gpu` goes on after what fails or takes too long, keeps what was said, and does nothing twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import NO_GPU, PARTS, Part, report, run_parts


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


def test_without_a_gpu_the_dry_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "DRY", (GOOD,))
    assert gpu.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == NO_GPU
