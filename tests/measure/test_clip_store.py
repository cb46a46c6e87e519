"""Clips in bounded memory: the same arrays come back, wherever they were, and the files go with their owner."""

from __future__ import annotations

import gc
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest

from accel.measure.clip_store import ClipStore
from accel.measure.measurements import BASELINE, Sample, Variant
from accel.measure.output import PipelineOutput
from accel.measure.runner import Runner
from accel.recipe import Recipe


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def clip(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (5, 8, 8, 3), np.uint8)


def test_what_does_not_fit_comes_back_from_disk(temporary: Path) -> None:
    clips = ClipStore(most=2 * clip(0).nbytes)
    for number in range(60):
        clips[f"recipe {number}", 0] = clip(number)
    assert clips.nbytes <= 2 * clip(0).nbytes and len(clips) == 60 == len(set(clips))
    for number in range(60):
        assert np.array_equal(clips[f"recipe {number}", 0], clip(number))
    clips["recipe 0", 0] = clip(7)
    clips["recipe 9", 0] = clips["recipe 8", 0]
    assert np.array_equal(clips["recipe 0", 0], clip(7)) and np.array_equal(clips["recipe 9", 0], clip(8))
    del clips["recipe 9", 0]
    assert ("recipe 9", 0) not in clips and len(clips) == 59
    with pytest.raises(KeyError):
        clips["recipe 9", 0]


@pytest.mark.usefixtures("quick_collection")
def test_the_files_go_with_their_owner(temporary: Path) -> None:
    clips = ClipStore(most=0)
    clips["one", 0] = clip(1)
    assert len(list(temporary.rglob("*.npy"))) == 1
    del clips
    gc.collect()
    assert list(temporary.iterdir()) == []


class Scripted(Runner):
    """Measures nothing: each contestant has a grey of its own, and all clips that are still alive are counted."""

    def __init__(self) -> None:
        super().__init__(None, ["a", "b"], [0], {}, None)
        self.made: list[weakref.ref[np.ndarray]] = []
        self.most = 0

    def _sample(
        self, contestant: Variant, batch: int, prompt: int, seed: int, repeat: int
    ) -> tuple[Sample, PipelineOutput]:
        frames = np.full((2, 8, 8, 3), contestant.steps / 100, np.float32)
        self.made.append(weakref.ref(frames))
        self.most = max(self.most, sum(one() is not None for one in self.made))
        times = dict.fromkeys(("seconds", "cpu_seconds", "before", "denoise", "after"), 1.0)
        counts = dict.fromkeys(("computed", "predicted", "dropped", "extra_bytes"), 0)
        return Sample(
            contestant.label, batch, prompt, seed, repeat, **times, **counts, peak_bytes=None
        ), PipelineOutput(frames)


def test_a_contest_keeps_few_clips_in_memory(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many contestants there are, and whichever place in the order the baseline has."""
    monkeypatch.setattr("accel.measure.clip_store.IN_MEMORY", 0)
    others = [Variant(f"recipe {number}", "recipe", number, Recipe()) for number in range(20)]
    contest = Scripted()
    contest.measure([Variant(BASELINE, "baseline", 50, Recipe()), *others], repeats=3)
    assert contest.most <= 4  # that of the baseline, the one just made, the one being judged and one before it
    samples = contest.ledger.samples
    assert len(samples) == 2 * 3 * 21 and contest.ledger.clips.nbytes == 0
    for sample in samples:
        if sample.repeat == 0 and sample.label != BASELINE:
            apart = 0.5 - int(sample.label.split()[1]) / 100
            assert sample.quality is not None and sample.quality.psnr == pytest.approx(-20 * np.log10(apart), abs=0.01)
            assert contest.ledger.clips[sample.label, sample.prompt].shape == (2, 8, 8, 3)
        assert (sample.quality is None) == (sample.repeat > 0)
