"""`accel.compare` and `accel.check` of pipelines that make sound, alone or with a film."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.measure.results import Comparison
from accel.measure.sound_metrics import snr
from benchmarks.judges.roster import SOUNDS
from tests.tiny.zoo import ZOO

RECIPES: list[Any] = [("every other", accel.Recipe(cache=accel.FixedInterval(2)))]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return accel.compare(
        SOUNDS.load(), RECIPES, SOUNDS.prompts[:2], steps=16, fewer_steps=[8], progress=False, metrics={"again": snr}
    )


def test_sound_is_judged_by_metrics_of_sound(comparison: Comparison) -> None:
    row, fewer = comparison.row("every other"), comparison.row("8 steps")
    assert row.psnr is None and row.ssim is None and row.decibels == row.snr
    assert row.snr is not None and fewer.snr is not None and row.snr_worst is not None
    assert 5 < fewer.snr < row.snr < 60 and row.snr_worst <= row.snr <= (row.si_sdr or 0)
    assert comparison.samples[1].quality is not None
    assert comparison.samples[1].quality.others == {"again": comparison.samples[1].quality.snr}
    assert comparison.settings["frames"] == 0 and comparison.settings["seconds"] == 0.768


def test_it_is_told_in_the_place_of_psnr(comparison: Comparison) -> None:
    text = str(comparison)
    assert "0.768 s of sound, 2 clips" in text and "SNR" in text and "SI-SDR" in text and "STFT" in text
    assert "PSNR" not in text and "SSIM" not in text
    assert f"at {comparison.row('every other').snr:.1f} dB" in comparison.headlines()[0]


def test_the_folder_has_sounds_and_pictures_of_them(comparison: Comparison, tmp_path: Path) -> None:
    page = comparison.save(tmp_path).read_text()
    assert page.count("<audio controls") == 2 * 3 and "SNR against speed-up" in page and "PSNR dB" not in page
    assert (tmp_path / "prompt-1-every-other.png").is_file()
    for label in ("unaccelerated", "every-other", "8-steps"):
        with wave.open(io.BytesIO((tmp_path / f"prompt-2-{label}.wav").read_bytes())) as file:
            assert file.getframerate() == 8000 and file.getnframes() == 6144


def test_a_film_is_judged_by_its_frames_and_by_its_sound() -> None:
    tiny = ZOO["LTX2Pipeline"]
    pipe = tiny.build()
    found = accel.compare(
        pipe, RECIPES, steps=6, call_arguments=tiny.arguments(pipe), fewer_steps=False, progress=False
    )
    row = found.row("every other")
    assert row.psnr is not None and row.snr is not None and row.decibels == row.psnr
    assert "32x32x5, 0.00425 s of sound" in str(found)


def test_a_check_says_that_presets_promise_nothing_of_sound() -> None:
    found = accel.check(SOUNDS.load(), SOUNDS.prompts[0], "balanced", num_inference_steps=24)
    assert found.psnr > 10 and found.kept is None and "sound" in found.verdict
