"""Short sounds: tones, glides, trembling tones and rhythms, at three pitches and three paces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.judges.language import Language

Array = NDArray[np.float64]

RATE = 8000
"""Samples per second."""
SAMPLES = 6144
PITCHES = {"low": 220.0, "middle": 440.0, "high": 880.0}
"""Hertz of the fundamental, give or take a third of an octave; there are three partials."""
PACES = {"slow": 4, "even": 7, "fast": 12}
"""Beats in a sound: of the trembling, of the pulses, and how steep a glide is."""
FADE = 80  # samples at both ends


def _steady(time: Array, beats: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """A tone that dies away, the sooner the faster."""
    return np.zeros_like(time), np.exp(-time * beats / 4)


def _glide(direction: int) -> Callable[[Array, int, np.random.Generator], tuple[Array, Array]]:
    def found(time: Array, beats: int, rng: np.random.Generator) -> tuple[Array, Array]:
        return direction * (time - 0.5) * beats / 8, np.ones_like(time)

    return found


def _trembling(time: Array, beats: int, rng: np.random.Generator) -> tuple[Array, Array]:
    return 0.12 * np.sin(2 * np.pi * (beats * time + rng.uniform())), np.ones_like(time)


def _pulses(time: Array, beats: int, rng: np.random.Generator) -> tuple[Array, Array]:
    beat = (beats * time + rng.uniform(0, 0.3)) % 1
    return np.zeros_like(time), np.exp(-6 * beat) * np.minimum(beat * 20, 1)


KINDS = {"tone": _steady, "rise": _glide(1), "fall": _glide(-1), "tremble": _trembling, "pulse": _pulses}
LANGUAGE = Language((tuple(KINDS), tuple(PITCHES), tuple(PACES)))


def draw(rng: np.random.Generator, words: tuple[str, ...]) -> NDArray[np.float32]:
    """A sound (6144, 1) in [-1, 1] at 8000 samples per second, such as "rise low fast"."""
    kind, pitch, pace = words
    time = np.arange(SAMPLES) / SAMPLES
    octaves, loudness = KINDS[kind](time, PACES[pace], rng)
    hertz = PITCHES[pitch] * 2 ** (rng.uniform(-1 / 6, 1 / 6) + octaves)
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    shares = np.array([1.0, rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.3)])
    partials = [share * np.sin((i + 1) * phase + rng.uniform(0, 2 * np.pi)) for i, share in enumerate(shares)]
    ends = np.minimum(np.minimum(np.arange(SAMPLES), np.arange(SAMPLES)[::-1]) / FADE, 1)
    sound = sum(partials) * loudness * ends * rng.uniform(0.7, 1.0) / shares.sum()
    return np.asarray(sound[:, None], np.float32)
