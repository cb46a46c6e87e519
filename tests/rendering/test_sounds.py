"""`accel.render` of pipelines that make sound."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.measure.output import output_of
from accel.rendering import settings_of
from accel.rendering.ledger import RenderLedger
from benchmarks.judges.roster import SOUNDS

PROMPTS = SOUNDS.prompts[:2]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return SOUNDS.load()


def test_every_line_becomes_a_sound(pipe: Any, tmp_path: Path) -> None:
    lines = [{"prompt": PROMPTS[0], "steps": 4}, {"prompt": PROMPTS[1], "steps": 4, "format": "flac"}]
    out = tmp_path / "out"
    assert accel.render(pipe, lines, out, metrics=True, progress_bar=False).complete
    first, second = sorted(out.glob("0*"))
    assert (first.suffix, second.suffix) == (".wav", ".flac")
    assert settings_of(first)["prompt"] == PROMPTS[0] and settings_of(second)["prompt"] == PROMPTS[1]
    with wave.open(str(first)) as file:
        frames = file.readframes(file.getnframes())
    import torch

    again = output_of(pipe(PROMPTS[0], num_inference_steps=4, generator=torch.Generator().manual_seed(0)), pipe)
    assert frames == again.heard.pcm().tobytes(), "the samples of a plain call"
    ledger = RenderLedger(out, None)
    entry = ledger.entry(next(iter(ledger.entries))) or {}
    assert entry["sound_seconds"] == 0.768 and entry["sampling_rate"] == 8000 and entry["metrics"]["snr"] == 100.0
    assert "<audio" in (out / "index.html").read_text()
    assert accel.render(pipe, first, tmp_path / "again", progress_bar=False).rendered == 1, "a file is a manifest"


def test_a_sound_is_no_picture(pipe: Any, tmp_path: Path) -> None:
    summary = accel.render(pipe, [{"prompt": PROMPTS[0], "steps": 2, "format": "png"}], tmp_path, progress_bar=False)
    assert "the pipeline makes sound; ask for the format wav or flac" in str(summary)
