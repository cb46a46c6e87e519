"""A run ends where its last step is executed, whatever the timetable says: there the last output is computed."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers import StableDiffusionXLImg2ImgPipeline

import accel
from accel import EasyCache, FirstBlockCache, FixedInterval, OptimalSchedule, SeaCache
from accel.presets import PRESETS
from accel.report import Report
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, picture, run

CACHES = [FixedInterval(3), FixedInterval(4), FixedInterval(5), OptimalSchedule(0.4), EasyCache(0.3), SeaCache(0.3)]


def report(pipe: Any, name: str, cache: Any, **options: Any) -> Report:
    with accel.accelerate(pipe, cache=cache) as session:
        run(pipe, TINY[name], **options)
    return session.report()


def line(report: Report) -> str:
    """What was done in each step, of the only stream."""
    (only,) = report.timeline().values()
    return only


@pytest.mark.part(1)
@pytest.mark.parametrize("end", [0.5, 0.8])
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_a_run_that_is_cut_off_ends_on_a_computed_step(cache: Any, end: float) -> None:
    pipe = TINY["sdxl"].build()
    done = line(report(pipe, "sdxl", cache, steps=30, denoising_end=end))
    assert len(done) == pipe.num_timesteps < 30
    assert "·" in done
    assert done[-1] == "█"


@pytest.mark.part(1)
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_timesteps_of_the_users_own_end_on_a_computed_step(cache: Any) -> None:
    cut = list(range(901, 300, -50))
    done = line(report(TINY["sdxl"].build(), "sdxl", cache, timesteps=cut))
    assert len(done) == len(cut)
    assert "·" in done
    assert done[-1] == "█"


@pytest.mark.part(1)
@pytest.mark.parametrize(("steps", "left_alone"), [(25, True), (40, False)])
def test_the_fewest_steps_are_counted_among_those_that_run(steps: int, left_alone: bool) -> None:
    """At strength 0.3 of 25 steps 7 run."""
    pipe = StableDiffusionXLImg2ImgPipeline(**TINY["sdxl"].build().components)
    pipe.set_progress_bar_config(disable=True)
    options = {"strength": 0.3, "image": picture(0, 128, 128), "height": None, "width": None}
    found = report(pipe, "sdxl", FixedInterval(3), steps=steps, **options)
    assert ("under min_steps=10" in found.levers[0].reason) is left_alone
    assert ("·" not in line(found)) is left_alone
    assert line(found)[-1] == "█"


def test_a_plan_is_made_for_the_steps_that_run() -> None:
    whole = line(report(TINY["sdxl"].build(), "sdxl", OptimalSchedule(0.4), steps=40, denoising_end=0.5))
    assert whole.count("█") == 8


def test_a_run_that_is_interrupted_after_a_prediction_says_so() -> None:
    def interrupted(pipe: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 5
        return {}

    pipe = TINY["wan"].build()
    found = report(pipe, "wan", FixedInterval(4), steps=20, callback_on_step_end=interrupted)
    assert "interrupted after a prediction" in found.levers[0].reason
    assert "interrupted" not in report(pipe, "wan", FixedInterval(4), steps=20).levers[0].reason


# Two experts


@pytest.mark.part(1)
@pytest.mark.parametrize("cache", [*CACHES, FirstBlockCache(0.2)], ids=str)
@pytest.mark.parametrize("steps", [12, 30])
def test_each_expert_ends_on_a_computed_step_and_begins_with_a_history_of_its_own(cache: Any, steps: int) -> None:
    lines = report(TINY["wan_two_experts"].build(), "wan_two_experts", cache, steps=steps).timeline()
    assert len(lines) == 4
    for done in lines.values():
        assert done[-1] == "█"
        assert done.startswith("█" * cache.fresh(cache.predictor))
    assert any("·" in done for done in lines.values())


@pytest.mark.part(1)
@pytest.mark.parametrize("preset", ["balanced", "fast", "turbo"])
@pytest.mark.parametrize("steps", [24, 50])
def test_presets_count_the_fewest_steps_per_run_and_not_per_expert(preset: str, steps: int) -> None:
    pipe = TINY["wan_two_experts"].build()
    with accel.accelerate(pipe, preset) as session:
        run(pipe, TINY["wan_two_experts"], steps=steps)
    cache: Any = PRESETS[preset].recipe.cache
    # Each of the experts begins with short gaps.
    assert session.report().computed / 2 == pytest.approx(cache.share(steps) * steps, abs=2)


def test_a_loop_of_the_users_own_does_not_end_where_the_last_call_of_the_pipeline_did() -> None:
    pipe: Any = ToyPipeline(lambda latents, sigma: latents)
    pipe._num_timesteps = 4
    with accel.accelerate(pipe, cache=FixedInterval(3)) as session, session.running():
        pipe.__class__.__call__(pipe, num_inference_steps=12)
    assert line(session.report()) == "███··█··█··█"
