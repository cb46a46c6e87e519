"""The studio on the pocket model: pairs, reuse, previews, files, costs, votes, and bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel.app.pair import StudioError
from accel.app.settings import StudioSettings, embedded
from accel.app.studio import Studio
from accel.app.ui.figures import headline_html
from accel.measure.media import to_pixels
from accel.measure.metrics import psnr
from accel.presets import PRESETS, resolve
from accel.recipe import Recipe
from tests import shallow
from tests.app.stage import BASE, PROMPT, Stage, direct, finished

OTHER, SEEDS = Recipe(cache=accel.OptimalSchedule(0.8)), {"cpu": 13, "meta": 15}
pytestmark = pytest.mark.xdist_group("studio")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    found = Stage()
    yield found
    found.studio.close()
    assert not found.studio.folder.exists()


def test_a_pair_is_what_the_library_makes_and_measures(stage: Stage) -> None:
    updates = list(stage.studio.run(BASE))
    pair = updates[-1].pair
    assert pair is not None
    ours, theirs = direct(BASE), direct(BASE.unaccelerated)
    assert np.array_equal(pair.accelerated.frames, to_pixels(ours))
    assert np.array_equal(pair.baseline.frames, to_pixels(theirs))
    assert pair.metrics["psnr"] == pytest.approx(psnr(ours, theirs))
    assert pair.psnr_per_frame[pair.worst_frame] == min(pair.psnr_per_frame)
    assert np.mean(pair.psnr_per_frame) == pytest.approx(pair.metrics["psnr"])
    assert pair.baseline.computed == 20 and pair.accelerated.computed == 12
    assert pair.accelerated.timeline["cond"].count("·") == 4
    before, after = pair.baseline.seconds, pair.accelerated.seconds
    assert pair.metrics["speedup"] == pytest.approx(before["processor"] / after["processor"])
    assert before["total"] == pytest.approx(before["before"] + before["denoise"] + before["after"])
    assert not pair.baseline_reused and not pair.accelerated.idle


def test_stages_come_in_order_and_count_the_steps(stage: Stage) -> None:
    updates = list(stage.studio.run(replace(BASE, seed=1)))
    stages = list(dict.fromkeys(update.stage for update in updates if update.stage != "waiting"))
    assert stages == ["baseline", "accelerated", "measuring", "done"]
    steps = [update.step for update in updates if update.stage == "baseline" and update.preview is None]
    assert steps == list(range(11)) and updates[3].steps == 10


def test_previews_show_where_the_clip_is_going(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.app.watch.PREVIEW_SECONDS", 0.0)  # one of each step, however fast the machine is
    updates = list(stage.studio.run(StudioSettings(prompt=PROMPT, steps=14, seed=2, frames=5)))
    pair, previews = updates[-1].pair, [update.preview for update in updates if update.preview is not None]
    assert pair is not None and previews
    middle = pair.baseline.frames[2]
    last = [update.preview for update in updates if update.stage == "baseline" and update.preview is not None][-1]
    assert last is not None and last.shape == middle.shape == (64, 64, 3)
    assert psnr(last[None] / 255.0, middle[None] / 255.0) > 15.0
    left = [update.seconds_left for update in updates if update.seconds_left is not None]
    assert left and all(seconds >= 0.0 for seconds in left)


def test_a_turned_knob_renders_the_accelerated_side_alone(stage: Stage) -> None:
    finished(stage.studio.run(replace(BASE, seed=3)))
    before = stage.calls
    turned = replace(BASE, seed=3, recipe=Recipe(cache=accel.OptimalSchedule(0.8)))
    assert stage.studio.cost(turned).baseline_cached
    pair = finished(stage.studio.run(turned))
    assert pair.baseline_reused and pair.baseline_when < pair.when
    assert pair.accelerated.computed == 16 and stage.calls - before == 16 + 2 * 3  # a few steps for the pace


@pytest.mark.part(1)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_kept_baseline_counts_at_the_pace_of_today(
    device: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few steps beside the accelerated clip say how long it would take now."""
    if device != "cpu":
        monkeypatch.setattr("accel.app.timed_run.device_of", lambda pipe: torch.device(device))
    first = finished(stage.studio.run(replace(BASE, seed=SEEDS[device])))
    assert ("processor" in first.baseline.seconds) is (device == "cpu")
    before = stage.calls
    pair = finished(stage.studio.run(replace(BASE, seed=SEEDS[device], recipe=OTHER)))
    assert stage.calls - before == pair.accelerated.computed + 2 * 3
    now, then = pair.accelerated.effort("total"), first.baseline.effort("total")
    assert 0.0 < (pair.metrics["speedup"] or 0.0) != then / now, "not as it was then"
    assert pair.baseline is first.baseline and "unaccelerated steps that ran beside" in pair.timing_note


def test_a_run_that_skips_nothing_says_why_and_gives_no_ratio(stage: Stage) -> None:
    pair = finished(stage.studio.run(replace(BASE, seed=14, recipe=resolve("balanced"))))
    assert pair.accelerated.computed == pair.baseline.computed
    fewest = PRESETS["balanced"].recipe.to_dict()["cache"]["fewest"]
    assert pair.accelerated.idle == f"10 steps are no more than the {fewest} that are computed at least"
    assert "faster" not in headline_html(pair)


def test_files_carry_the_settings_of_their_side(stage: Stage) -> None:
    pair = finished(stage.studio.run(replace(BASE, guidance=4.0)))
    assert pair.accelerated.path.is_relative_to(stage.studio.folder) and pair.accelerated.path.suffix == ".mp4"
    assert embedded(pair.accelerated.path) == pair.settings
    assert embedded(pair.baseline.path) == pair.settings.unaccelerated


def test_the_cost_is_predicted_and_then_measured(stage: Stage) -> None:
    settings = replace(BASE, seed=10)
    stage.idle()
    told = stage.studio.cost(settings)
    assert told.source == "estimated" and told.computed_share == 0.6 and not told.baseline_cached
    pair = finished(stage.studio.run(settings))
    measured = stage.studio.cost(settings)
    assert measured.source == "measured" and measured.seconds_accelerated == pair.accelerated.seconds["total"]


def test_votes_are_kept_with_the_settings(tmp_path: Path, stage: Stage) -> None:
    pair = finished(stage.studio.run(replace(BASE, seed=11), "ann"))
    stage.studio.vote(pair.key, "same", "ann")
    assert stage.studio.votes()[-1].settings == pair.settings and stage.studio.votes()[-1].winner == "same"
    with pytest.raises(StudioError, match="voted on this pair already"):
        stage.studio.vote(pair.key, "accelerated", "ann")
    with pytest.raises(StudioError, match="no longer in memory"):  # nor is it told whether it ever was
        stage.studio.vote(pair.key, "same", "bob")
    assert len(stage.studio.votes()) == 1
    with pytest.raises(StudioError, match="A vote is one of baseline, accelerated, same"):
        stage.studio.vote(pair.key, "left", "ann")  # type: ignore[arg-type]
    with pytest.raises(StudioError, match="no longer in memory"):
        stage.studio.vote("0" * 16, "same")
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps({"torn": 1}) + "\n" + "{")
    with Studio(out=tmp_path) as other:  # what a crash or another version left is passed over
        assert other.votes() == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "Steps must be a whole number"),
    ({"width": 50}, "divisible by 16"),
    ({"model": "/etc"}, "may not read '/etc'"),
    ({"recipe": Recipe(sampler=accel.SchedulerSolver()), "frames": 100000}, "Frames must be"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_bad_input_is_one_sentence(stage: Stage, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StudioError, match=sentence) as error:
        list(stage.studio.run(replace(BASE, **changes)))
    assert "\n" not in str(error.value)


def test_a_size_that_the_pipeline_changes_is_told(stage: Stage) -> None:
    pair = finished(stage.studio.run(replace(BASE, frames=6, height=32, width=48)))
    assert pair.notes == ("The pipeline made 5 frames, not 6.",) and pair.baseline.frames.shape == (5, 32, 48, 3)
    single = finished(stage.studio.run(replace(BASE, frames=1, height=32, width=32)))
    assert single.baseline.path.suffix == ".png" and single.metrics["flicker_difference"] is None


def test_recipes_go_by_the_calibrations_that_it_was_given() -> None:
    pipe = shallow.load("video")
    with accel.calibrating(pipe) as calibration:
        pipe(BASE.prompt, num_inference_steps=10, width=32, height=32, num_frames=5)
    with Studio(calibrations=[calibration], load=lambda *_, **__: pipe) as studio:
        pair = finished(studio.run(BASE))
        swept = list(studio.sweep(BASE, "cache", "compute", [0.5]))[-1].points
        off = finished(studio.run(replace(BASE, recipe=Recipe(name="off"))))
    for one in (pair, *swept):
        cache = one.settings.recipe.cache
        assert isinstance(cache, accel.OptimalSchedule) and cache.features is not None
    assert "corrected by this model's own outputs" in str(pair.accelerated.report)
    assert off.settings.recipe.cache is None
