"""The studio at work for several people: cancelling, turns, sweeps, tuning, crashes, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import TestCase

import numpy as np
import pytest

import accel
from accel import pocket, presets
from accel.app.limits import Limits
from accel.app.pair import Cancelled, StudioError, Update
from accel.app.studio import Studio
from accel.measure.media import to_pixels
from accel.patch import session_of
from accel.recipe import Recipe
from tests.app.stage import BASE, LONG, PROMPT, Stage, direct, finished

pytestmark = pytest.mark.xdist_group("studio")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    found = Stage()
    yield found
    found.studio.close()
    assert not found.studio.folder.exists()


@pytest.mark.part(1)
@pytest.mark.parametrize("moment", [1, 20])
@pytest.mark.parametrize("way", ["event", "close"])
def test_cancelling_stops_within_one_denoiser_call(stage: Stage, way: str, moment: int) -> None:
    event = threading.Event()
    updates = stage.studio.run(replace(LONG, seed=100 + moment), cancel=event)
    for update in updates:
        if update.stage == "baseline" and update.step >= moment:
            break
    before = stage.calls
    if way == "event":
        event.set()
        with pytest.raises(Cancelled):
            list(updates)
    else:
        updates.close()
    time.sleep(0.3)  # long enough for several steps
    assert stage.calls - before <= 1
    assert session_of(stage.pipes["pocket:video"]) is None


def test_nothing_stays_on_the_pipeline(stage: Stage) -> None:
    list(stage.studio.prepare(BASE))
    pipe = stage.pipes["pocket:video"]
    parts = [part for part in pipe.components.values() if hasattr(part, "__dict__")]
    before = [set(vars(part)) for part in (pipe, *parts)]
    finished(stage.studio.run(replace(BASE, seed=4)))
    updates = stage.studio.run(replace(LONG, seed=5))
    next(update for update in updates if update.step > 3)
    updates.close()
    stage.idle()
    assert [set(vars(part)) for part in (pipe, *parts)] == before
    assert type(pipe) is pocket.pipeline.WanPocketPipeline


def test_users_get_their_own_recipe_seed_and_history(stage: Stage) -> None:
    wanted = {
        "ann": replace(BASE, seed=6),
        "bob": replace(BASE, seed=7, recipe=Recipe(guidance=accel.GuidanceInterval(low=0.5))),
        "eve": replace(BASE, seed=8, recipe=presets.resolve("fast"), guidance=1.0),
    }
    found: dict[str, list[Update]] = {}

    def visit(user: str) -> None:
        found[user] = list(stage.studio.run(wanted[user], user))

    threads = [threading.Thread(target=visit, args=(user,)) for user in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for user, settings in wanted.items():
        pair = found[user][-1].pair
        assert pair is not None and pair.settings == settings
        assert np.array_equal(pair.accelerated.frames, to_pixels(direct(settings)))
        assert [line.key for line in stage.studio.history(user)] == [pair.key]
    assert sum(any(update.position for update in updates) for updates in found.values()) == 2  # who had to wait


def test_a_sweep_renders_the_baseline_once_and_its_points_stay(stage: Stage) -> None:
    base = replace(BASE, seed=9)
    updates = list(stage.studio.sweep(base, "cache", "compute", [0.5, 0.8], user="sue"))
    points = updates[-1].points
    assert [pair.label for pair in points] == ["compute 0.5", "compute 0.8"]
    assert [pair.baseline_reused for pair in points] == [False, True]
    assert (points[1].metrics["psnr"] or 0) > (points[0].metrics["psnr"] or 0)
    assert max(len(update.points) for update in updates if update.stage == "accelerated") == 1  # they come one by one
    assert all(stage.studio.pair(pair.key) is pair for pair in points)
    (rival,) = list(stage.studio.sweep(base, "call", "steps", [5], user="sue"))[-1].points
    assert rival.accelerated.computed == 10 and rival.baseline is points[0].baseline
    assert len(stage.studio.history("sue")) == 3


def test_a_point_that_fails_does_not_take_the_others_with_it(stage: Stage) -> None:
    from accel.samplers.model_switch import ModelSwitch

    base = replace(BASE, recipe=Recipe(sampler=ModelSwitch(model="pocket:small")))
    last = list(stage.studio.sweep(base, "sampler", "model", ["none/there", "pocket:small"]))[-1]
    assert [pair.label for pair in last.points] == ["model pocket:small"]
    assert last.note.startswith("Left out: model none/there: There is no denoiser")


def test_a_tuned_recipe_is_run_and_shown(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def tune(pipe: Any, prompts: list[str], *, tell: Callable[[str], None], **options: Any) -> Recipe:
        asked.update(options, prompts=prompts)
        tell("trying something")
        return Recipe(cache=accel.FixedInterval(interval=2, warmup=2), evidence={"met": True})

    monkeypatch.setattr("accel.tuning.tune", tune)
    updates = list(stage.studio.tune(replace(BASE, guidance=4.0), min_psnr=30.0, minutes=2.0, user="tim"))
    assert "trying something" in [update.note for update in updates]
    assert asked["prompts"] == [PROMPT] and (asked["min_psnr"], asked["target_speedup"]) == (30.0, None)
    assert asked["steps"] == 10 and asked["minutes"] == 2.0
    assert asked["call_arguments"] == {"guidance_scale": 4.0, "height": 32, "width": 32, "num_frames": 5}
    pair = updates[-1].pair
    assert pair is not None and pair.settings.recipe.name == "tuned" and pair.accelerated.computed < 20
    assert stage.studio.history("tim")[0].key == pair.key
    assert "nothing is promised of other prompts" in updates[-1].note


def test_a_goal_out_of_reach_shows_what_comes_nearest(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from accel.tuning import GoalNotMet

    nearest: list[Recipe | None] = [Recipe(cache=accel.FixedInterval(interval=2)), None]

    def tune(*_: Any, **__: Any) -> Recipe:
        raise GoalNotMet("no recipe reaches 90 dB.", nearest.pop(0))

    monkeypatch.setattr("accel.tuning.tune", tune)
    last = list(stage.studio.tune(BASE, min_psnr=90.0))[-1]
    assert last.note == "No recipe reaches 90 dB." and last.pair is not None
    assert last.pair.settings.recipe.name == "nearest"
    with pytest.raises(StudioError, match="No recipe reaches 90 dB"):
        list(stage.studio.tune(BASE, min_psnr=90.0))
    with pytest.raises(StudioError, match="one of the two"):
        stage.studio.tune(BASE, min_psnr=30.0, target_speedup=2.0)


def test_a_tuning_is_cancelled_within_a_call(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, event = threading.Event(), threading.Event()

    def tune(pipe: Any, prompts: list[str], **_: Any) -> Recipe:
        begun.set()
        while True:
            with accel.accelerate(pipe, "fast"):
                pipe(prompts[0], num_inference_steps=10, width=32, height=32, num_frames=5)

    monkeypatch.setattr("accel.tuning.tune", tune)
    updates = stage.studio.tune(BASE, target_speedup=2.0, cancel=event)
    watcher = threading.Thread(target=lambda: (begun.wait(120.0), time.sleep(0.2), event.set()))
    watcher.start()
    with pytest.raises(Cancelled):
        list(updates)
    watcher.join()
    before = stage.calls
    time.sleep(0.2)
    assert stage.calls == before and session_of(stage.pipes["pocket:video"]) is None


def test_a_crash_leaves_the_studio_serving(stage: Stage) -> None:
    stage.idle()
    crash = stage.pipes["pocket:video"].transformer.register_forward_pre_hook(_explode(after=7))
    try:
        with (
            TestCase().assertLogs("accel.app") as logged,
            pytest.raises(StudioError, match=r"^The kernel exploded\.$"),
        ):
            list(stage.studio.run(replace(BASE, seed=12)))
    finally:
        crash.remove()
    assert "A job failed." in logged.output[0]  # the server's log has the whole story
    settings = replace(BASE, seed=12)
    assert np.array_equal(finished(stage.studio.run(settings)).accelerated.frames, to_pixels(direct(settings)))


def _explode(after: int) -> Callable[..., None]:
    calls = [0]

    def explode(*_: Any) -> None:
        calls[0] += 1
        if calls[0] > after:
            raise RuntimeError("the kernel exploded.\nand a long trace")

    return explode


def test_models_make_room_for_each_other_and_files_go_with_their_pairs() -> None:
    stage, base = Stage(), replace(BASE, steps=2)
    stage.studio.close()
    stage.studio = Studio(Limits(models=1, history_bytes=1, baseline_bytes=1), load=stage._load)
    with stage.studio as studio:
        first = finished(studio.run(base))
        path, key = first.accelerated.path, first.key
        del first
        assert path.exists()
        finished(studio.run(replace(base, model="pocket:few")))
        finished(studio.run(base))
        assert stage.loaded == ["pocket:video", "pocket:few", "pocket:video"]
        assert studio.pair(key).key == key and not path.exists()
        assert [line.key for line in studio.history()] == [key]
