"""The app on a pipeline that makes sound: a spectrogram in the place of frames, and players in step."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import accel
from accel.app.pair import Pair
from accel.app.settings import StudioSettings, embedded
from accel.app.studio import Studio
from accel.app.ui.figures import headline_html, metrics_html
from accel.app.ui.viewer import blind_value, pair_value
from accel.recipe import Recipe
from benchmarks.judges.roster import SOUNDS
from tests.app.stage import finished

SETTINGS = StudioSettings(
    model="someone/sounds", prompt=SOUNDS.prompts[0], steps=16, recipe=Recipe(cache=accel.FixedInterval(2))
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:

    def load(model: str, **_: Any) -> Any:
        return SOUNDS.load()

    with Studio(load=load) as studio:
        yield finished(studio.run(SETTINGS))


def test_a_sound_is_measured_and_shown_by_its_spectrogram(pair: Pair) -> None:
    assert pair.metrics["psnr"] is None and 5 < (pair.metrics["snr"] or 0) < 60 and pair.psnr_per_frame == ()
    assert pair.baseline.frames.shape == pair.accelerated.frames.shape and len(pair.baseline.frames) == 1
    assert not np.array_equal(pair.baseline.frames, pair.accelerated.frames)
    assert pair.difference is not None and pair.difference.frames.mean() < pair.baseline.frames.mean()


def test_the_file_holds_the_settings_and_the_sound(pair: Pair) -> None:
    assert pair.accelerated.path.suffix == ".wav"
    assert embedded(pair.accelerated.path).prompt == SETTINGS.prompt


def test_the_viewer_has_three_sounds_and_three_spectrograms(pair: Pair) -> None:
    value = pair_value(pair)
    assert len(value["sounds"]) == len(value["sheets"]) == 3 and "<svg" not in value["curve"]
    assert all(Path(url.removeprefix("gradio_api/file=")).is_file() for url in value["sounds"])
    swapped = next(value for seed in range(9) for value, other in [blind_value(pair, random.Random(seed))] if other)
    assert swapped["sounds"] == [value["sounds"][1], value["sounds"][0], value["sounds"][2]]


def test_figures_name_metrics_of_sound(pair: Pair) -> None:
    head, table = headline_html(pair), metrics_html(pair)
    assert "fidelity (SNR)" in head and "STFT distance" in head and "SSIM" not in head
    assert "SI-SDR" in table and "PSNR" not in table and "worst frame" not in table
