"""Judges train from where they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.judges import JUDGES, Judge, judge
from benchmarks.judges.judge import Training
from benchmarks.judges.roster import CANDIDATES
from benchmarks.judges.train import Trainer, train


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models go elsewhere, so that no test overwrites the real ones."""
    monkeypatch.setattr(judge, "MODELS", tmp_path / "models")
    return tmp_path / "models"


def small(name: str, updates: int) -> Judge:
    return replace(CANDIDATES[name], training=Training(updates=updates, batch=2, pool=6))


def updates_in(out: Path) -> int:
    return int(torch.load(out / "checkpoint.pt", weights_only=True)["step"])


@pytest.mark.part(1)
@pytest.mark.parametrize("name", CANDIDATES)
def test_an_update_changes_the_model(name: str) -> None:
    trainer = Trainer(small(name, updates=2))
    before = [parameter.clone() for parameter in trainer.denoiser.parameters()]
    assert 0 < trainer.step(0, 0.0) < 10
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.denoiser.parameters(), strict=True))


def test_training_goes_on_where_it_was_and_then_leaves_the_model_alone(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small("cells", updates=2), tmp_path)
    assert updates_in(tmp_path) == 2
    train(small("cells", updates=3), tmp_path)
    assert updates_in(tmp_path) == 3
    assert json.loads((models / "cells/training.json").read_text())["updates"] == 3
    written = (models / "cells/words.safetensors").stat().st_mtime_ns
    train(small("cells", updates=3), tmp_path)
    assert "is trained" in capsys.readouterr().out
    assert (models / "cells/words.safetensors").stat().st_mtime_ns == written


def test_a_judge_that_is_not_trained_says_how(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run python -m benchmarks\.judges\.train cells"):
        JUDGES["cells"].load()
