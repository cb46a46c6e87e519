"""Fidelity of one sound to another: both float32 (samples, channels), equally long, on the same scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.measure.metrics import MAX_PSNR

MOST_DECIBELS = MAX_PSNR  # of sounds that are identical, as of pictures
RESOLUTIONS = (512, 1024, 2048)
"""Samples in a window of the three spectrograms (Yamamoto et al. 2020, table 1, has the same three)."""
FLOOR = 80.0
"""Decibels below the reference's loudest place, under which nothing counts: silence has no loudness to compare."""


def snr(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """Signal-to-noise ratio in decibels: 10 log10(sum reference² / sum (candidate − reference)²), over all samples and
    channels. At most 100, for identical sounds; -100 beside a reference that is silent.

    It is to sound what PSNR is to pictures: a waveform that is late by a fraction of a millisecond sounds the same and
    has none. Below about 10 dB it says only that the sound is another one. Raises ValueError for different shapes.
    """
    _require_equal_length(candidate, reference)
    return _ratio(_power(reference), _power(candidate.astype(np.float64) - reference))


def si_sdr(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """Scale-invariant signal-to-distortion ratio in decibels: SNR against the reference at the loudness that fits best.

    With a = <candidate, reference> / |reference|², 10 log10(|a reference|² / |a reference − candidate|²) (Le Roux,
    Wisdom, Erdogan and Hershey 2019, "SDR: half-baked or well done?", arXiv 1811.02508, eq. 5), all channels as one
    vector. Above SNR where the candidate is merely louder or softer. From -100 to 100. Raises ValueError for different
    shapes.
    """
    _require_equal_length(candidate, reference)
    wanted, found = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    scaled = wanted * (np.dot(found, wanted) / max(np.dot(wanted, wanted), 1e-20))
    return _ratio(_power(scaled), _power(scaled - found))


def stft_distance(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """How far the loudness of frequencies differs, in decibels: the mean of |20 log10 (|candidate| / |reference|)| over
    time, frequency, channels and three resolutions. 0 for identical sounds; less is better.

    The log-magnitude term of the multi-resolution STFT loss (Yamamoto, Song and Kim 2020, Parallel WaveGAN, arXiv
    1910.11480, eq. 5), in decibels, with Hann windows of 512, 1024 and 2048 samples a quarter of a window apart, and
    a floor 80 dB below the loudest place of the reference. It hears no phase, so it stays small where SNR is lost to a
    shift that nobody hears. Raises ValueError for different shapes.
    """
    _require_equal_length(candidate, reference)
    return float(np.mean([_log_distance(candidate, reference, window) for window in RESOLUTIONS]))


def _log_distance(candidate: NDArray[Any], reference: NDArray[Any], window: int) -> float:
    ours, theirs = _magnitudes(candidate, window), _magnitudes(reference, window)
    least = max(float(theirs.max()) * 10.0 ** (-FLOOR / 20.0), 1e-12)
    return float(np.mean(np.abs(20.0 * np.log10(np.maximum(ours, least) / np.maximum(theirs, least)))))


def _magnitudes(samples: NDArray[Any], window: int) -> NDArray[np.float64]:
    """Of the short-time Fourier transform: (channels, times, frequencies)."""
    padded = np.pad(samples.astype(np.float64), ((window // 2, window // 2), (0, 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)[:: window // 4]
    return np.abs(np.fft.rfft(frames * np.hanning(window)))


def _power(samples: NDArray[Any]) -> float:
    return float(np.sum(np.square(samples, dtype=np.float64)))


def _ratio(signal: float, noise: float) -> float:
    """In decibels, from -100 to 100."""
    if noise <= signal * 10.0 ** (-MOST_DECIBELS / 10.0):
        return MOST_DECIBELS
    return max(10.0 * math.log10(signal / noise), -MOST_DECIBELS) if signal > 0.0 else -MOST_DECIBELS


def _require_equal_length(candidate: NDArray[Any], reference: NDArray[Any]) -> None:
    if candidate.shape != reference.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(
            f"the sounds have the shapes {candidate.shape} and {reference.shape}; both must be (samples, channels) and "
            "equally long."
        )
