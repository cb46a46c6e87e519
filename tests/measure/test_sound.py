"""Sound as a pipeline returns it, as a file, and as a picture."""

from __future__ import annotations

import io
import wave
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from accel.measure.sound import Sound, encode_wav, sampling_rate, spectrogram, to_samples

RATE = 8000


def tone(hertz: float, loudness: float = 1.0, seconds: float = 1.0) -> Sound:
    time = np.arange(int(seconds * RATE)) / RATE
    return Sound((loudness * np.sin(2 * np.pi * hertz * time)).astype(np.float32)[:, None], RATE)


@pytest.mark.parametrize("given", [torch.zeros(2, 50), np.zeros((50, 2)), np.zeros((2, 50), np.float64)])
def test_channels_are_on_the_shorter_axis(given: object) -> None:
    assert to_samples(given).shape == (50, 2) and to_samples(given).dtype == np.float32


def test_what_is_no_sound_is_one_sentence() -> None:
    assert to_samples(np.zeros(50)).shape == (50, 1)
    with pytest.raises(ValueError, match="not latents"):
        to_samples(np.zeros((64, 100)))
    with pytest.raises(ValueError, match="NaN"):
        to_samples(np.array([0.0, np.nan]))


def test_the_rate_is_that_of_the_last_component_that_has_one() -> None:
    def part(**config: int) -> SimpleNamespace:
        return SimpleNamespace(config=SimpleNamespace(**config))

    vae, vocoder = part(sample_rate=16_000), part(sampling_rate=16_000, output_sampling_rate=24_000)
    assert sampling_rate(SimpleNamespace(vae=vae)) == 16_000
    assert sampling_rate(SimpleNamespace(vae=vae, vocoder=vocoder)) == 24_000
    assert sampling_rate(SimpleNamespace(vae=part(scale=2), unet=None)) is None


def test_a_wav_file_is_read_by_others() -> None:
    loud = Sound(np.array([[0.5, -0.25], [2.0, -2.0], [0.0, 1.0]], np.float32), RATE)
    with wave.open(io.BytesIO(encode_wav(loud, "made by accel, odd"))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, RATE, 2)
        found = np.frombuffer(file.readframes(3), "<i2").reshape(3, 2)
    assert found.tolist() == [[16384, -8192], [32767, -32767], [0, 32767]], "clipped at full scale"


def test_a_spectrogram_shows_pitch_and_loudness() -> None:
    """White is full scale, and 80 dB are 255 levels of grey; each of its 256 rows is 15.6 Hz."""
    picture = spectrogram(tone(1000, 0.1))
    height, width, _ = picture.shape
    column = picture[:, width // 2, 0].astype(int)
    assert abs((height - column.argmax()) * RATE / 2 / height - 1000) < 2 * RATE / 2 / height
    assert column.max() == pytest.approx(255 * (1 - 20 / 80), abs=8)  # a row is two bins of the transform
    assert spectrogram(tone(1000, 0.0)).max() == 0
    assert spectrogram(Sound(np.zeros((3, 1), np.float32), RATE)).shape[1] == 1
