"""Many seeds in the studio: drafts to choose from, and the best one as a verifier sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accel.app import shipped
from accel.app.pair import StudioError
from tests.app.stage import BASE, Stage, finished

pytestmark = pytest.mark.xdist_group("studio")
SETTINGS = replace(BASE, steps=12, seed=40)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    found = Stage()
    yield found
    found.studio.close()


def test_drafts_are_quick_looks_at_the_seeds_that_follow(stage: Stage) -> None:
    list(stage.studio.prepare(SETTINGS))
    before = stage.calls
    updates = list(stage.studio.drafts(SETTINGS, 3))
    assert [draft.seed for draft in updates[-1].drafts] == [40, 41, 42]
    assert len({draft.picture.tobytes() for draft in updates[-1].drafts}) == 3
    assert [len(update.drafts) for update in updates if update.stage == "accelerated"] == [0, 1, 2]
    assert stage.calls - before < 3 * 2 * SETTINGS.steps  # of three runs with two passes in each step


def test_a_draft_looks_like_what_it_becomes(stage: Stage) -> None:
    pictures = [draft.picture.astype(float) for draft in list(stage.studio.drafts(SETTINGS, 2))[-1].drafts]
    clips = [finished(stage.studio.run(replace(SETTINGS, seed=seed))).accelerated.frames for seed in (40, 41)]
    middles = [clip[len(clip) // 2].astype(float) for clip in clips]
    apart = [[np.abs(picture - middle).mean() for middle in middles] for picture in pictures]
    assert apart[0][0] < apart[0][1] and apart[1][1] < apart[1][0]


def test_the_best_seed_is_run_with_the_recipe(stage: Stage) -> None:
    last = list(stage.studio.best_of(replace(SETTINGS, steps=24), 2, user="somebody"))[-1]
    assert last.pair is not None and last.pair.settings.seed in (40, 41)
    assert last.pair.settings.recipe == SETTINGS.recipe
    assert last.note.startswith(f"Best: seed {last.pair.settings.seed} of 2")
    assert [run.key for run in stage.studio.history("somebody")] == [last.pair.key]


def test_impossible_counts_and_models_nobody_can_judge_are_refused(stage: Stage) -> None:
    with pytest.raises(StudioError, match="Seeds must be a whole number from 2 to 32, not 1"):
        stage.studio.drafts(SETTINGS, 1)
    with pytest.raises(StudioError, match="can be told for pocket models alone"):
        stage.studio.best_of(replace(SETTINGS, model="somebody/model"), 2)


def test_the_example_is_a_pair_like_any_other(stage: Stage) -> None:
    pair = stage.studio.example(shipped.MODEL)
    assert pair is not None and stage.studio.example("somebody/model") is None
    assert pair.baseline.frames.shape == pair.accelerated.frames.shape == (17, 64, 64, 3)
    assert pair.accelerated.computed < pair.baseline.computed and not pair.accelerated.idle
    assert pair.accelerated.path.is_relative_to(stage.studio.clips)


def test_a_pair_is_read_as_it_was_shipped(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = stage.studio.example(shipped.MODEL)
    shipped.ship(pair, tmp_path / "example")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "example")
    again = shipped.shipped_pair(tmp_path)
    assert again.settings == pair.settings and again.metrics == pair.metrics
    assert again.psnr_per_frame == pair.psnr_per_frame
    for side in ("baseline", "accelerated"):
        assert np.array_equal(getattr(again, side).frames, getattr(pair, side).frames)
