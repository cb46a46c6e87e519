"""Metrics of sound against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from accel.measure.sound_metrics import si_sdr, snr, stft_distance

RNG = np.random.default_rng(0)
REFERENCE = RNG.standard_normal((4000, 2))
NOISE = RNG.standard_normal((4000, 2))


@pytest.mark.parametrize("share", [1.0, 0.1, 0.01])
def test_snr_is_the_ratio_of_powers(share: float) -> None:
    exact = 10 * np.log10(np.sum(REFERENCE**2) / np.sum((share * NOISE) ** 2))
    assert snr(REFERENCE + share * NOISE, REFERENCE) == pytest.approx(exact)


def test_si_sdr_does_not_hear_loudness() -> None:
    noisy = REFERENCE + 0.1 * NOISE
    assert si_sdr(3.0 * noisy, REFERENCE) == pytest.approx(si_sdr(noisy, REFERENCE))
    assert si_sdr(0.5 * REFERENCE, REFERENCE) == 100.0 and snr(0.5 * REFERENCE, REFERENCE) == pytest.approx(
        6.02, abs=0.01
    )


def test_stft_distance_is_in_decibels_and_hears_no_phase() -> None:
    assert stft_distance(REFERENCE * 10 ** (3 / 20), REFERENCE) == pytest.approx(3.0, abs=1e-6)
    assert stft_distance(-REFERENCE, REFERENCE) == pytest.approx(0.0, abs=1e-9)
    assert stft_distance(NOISE, REFERENCE) > 5.0


def test_what_is_far_below_the_loudest_place_does_not_count() -> None:
    time = np.arange(8000) / 8000
    tone = np.sin(2 * np.pi * 1000 * time)[:, None]
    assert stft_distance(tone + 1e-7 * NOISE[:1].repeat(8000, 0)[:, :1], tone) < 0.05


@pytest.mark.parametrize(("metric", "best"), [(snr, 100.0), (si_sdr, 100.0), (stft_distance, 0.0)])
def test_identical_sounds_and_silence_have_ends(metric: object, best: float) -> None:
    silence = np.zeros((600, 1))
    assert metric(REFERENCE, REFERENCE) == best and metric(silence, silence) == best
    assert np.isfinite(metric(silence + 0.1, silence)) and np.isfinite(metric(silence, silence + 0.1))


@pytest.mark.parametrize("metric", [snr, si_sdr, stft_distance])
def test_other_lengths_are_refused(metric: object) -> None:
    with pytest.raises(ValueError, match="equally long"):
        metric(REFERENCE[:-1], REFERENCE)
