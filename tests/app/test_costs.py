"""What is told about a run before it runs: exactly for recipes that decide without looking, honestly for the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import accel
from accel.app.costs import Costs
from accel.app.dry_run import DryRun
from accel.app.pair import Side
from accel.app.settings import StudioSettings
from accel.measure.pipeline_runs import without_progress_bars
from accel.recipe import Recipe
from accel.samplers import AdamsBashforth
from tests import shallow
from tests.accel.witness import pipeline

BASE = StudioSettings(prompt="a red circle moves left on a dark background", steps=14)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return shallow.load("video")


@pytest.fixture(scope="module")
def rehearsal(pipe: Any) -> DryRun:
    return DryRun(pipe)


STATIC = {
    "nothing": Recipe(),
    "schedule": Recipe(cache=accel.OptimalSchedule(0.5)),
    "interval": Recipe(cache=accel.FixedInterval(interval=3)),
    "guidance": Recipe(guidance=accel.GuidanceInterval(low=0.3)),
    "fewer steps": Recipe(sampler=accel.DPMSolver(steps=0.5)),
    "attention": Recipe(attention=accel.Radial(min_tokens=0)),
    "all": Recipe(cache=accel.OptimalSchedule(0.6), guidance=accel.GuidanceDelta(), sampler=AdamsBashforth(steps=0.8)),
}


@pytest.mark.part(1)
@pytest.mark.parametrize("name", STATIC)
def test_a_rehearsal_counts_what_the_model_will_compute(pipe: Any, rehearsal: DryRun, name: str) -> None:
    settings = replace(BASE, recipe=STATIC[name])
    with without_progress_bars(pipe), accel.accelerate(pipe, settings.recipe) as session:
        pipe(BASE.prompt, num_inference_steps=BASE.steps, output_type="latent")
        computed = session.report().computed
    assert rehearsal.evaluations(settings) == pytest.approx(computed / (2 * BASE.steps))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(cache=accel.EasyCache(0.3)),
        Recipe(cache=accel.FirstBlockCache(0.2)),
        Recipe(guidance=accel.AdaptiveGuidance()),
    ],
    ids=str,
)
def test_recipes_that_look_at_the_answers_cannot_be_rehearsed(rehearsal: DryRun, recipe: Recipe) -> None:
    assert rehearsal.evaluations(replace(BASE, recipe=recipe)) is None


def test_without_guidance_there_is_nothing_to_leave_out(rehearsal: DryRun) -> None:
    halved = replace(BASE, recipe=Recipe(cache=accel.OptimalSchedule(0.5)), guidance=1.0)
    assert rehearsal.evaluations(halved) == pytest.approx(0.5, abs=0.04)


def test_a_short_run_is_left_alone_and_two_experts_are_not_rehearsed(rehearsal: DryRun) -> None:
    assert rehearsal.evaluations(replace(BASE, steps=5, recipe=STATIC["schedule"])) == 1.0
    assert DryRun(pipeline("wan_two_experts")).evaluations(replace(BASE, recipe=STATIC["schedule"])) is None


def side(seconds: float, computed: int, calls: int, frames: tuple[int, int, int] = (5, 16, 16)) -> Side:
    actions = ["computed"] * computed + ["predicted"] * (calls - computed)
    records = [{"run": 1, "step": index // 2, "action": action} for index, action in enumerate(actions)]
    phases = {"total": seconds + 3.0, "before": 1.0, "denoise": seconds, "after": 2.0}
    return Side(np.zeros((*frames, 3), np.uint8), Path("none"), phases, records, {}, "")


def test_nothing_is_known_before_anything_has_run() -> None:
    cost = Costs().predict(BASE)
    assert (cost.seconds_baseline, cost.seconds_accelerated, cost.source) == (None, None, "estimated")
    assert Costs().predict(replace(BASE, recipe=Recipe())).computed_share == 1.0


def test_time_grows_with_the_steps_and_the_pixels(rehearsal: DryRun) -> None:
    costs = Costs()
    costs.learn_model(BASE.model, rehearsal)
    costs.learn_baseline(BASE, side(14.0, 28, 28))  # a second for each step
    assert costs.predict(replace(BASE, steps=20, prompt="another")).seconds_baseline == pytest.approx(3.0 + 20.0)
    larger = replace(BASE, width=32, height=32)  # the clip was 16 x 16
    assert costs.predict(larger).seconds_baseline == pytest.approx(1.0 + 4 * (14.0 + 2.0))
    halved = costs.predict(replace(BASE, recipe=STATIC["fewer steps"]))
    assert halved.computed_share == 0.5 and halved.seconds_accelerated == pytest.approx(3.0 + 7.0)
    costs.learn_baseline(larger, side(14.0 * 16, 28, 28, (5, 32, 32)))  # attention: 16 times for 4 times the pixels
    half = replace(BASE, width=32, height=16)  # of the last one
    assert costs.predict(half).seconds_baseline == pytest.approx(1.0 + 14.0 * 16 / 4 + 2.0 / 2)


def test_what_has_run_is_told_as_measured_and_teaches_about_others() -> None:
    costs, adaptive = Costs(), replace(BASE, recipe=Recipe(cache=accel.EasyCache(0.1)))
    costs.learn_baseline(adaptive, side(14.0, 28, 28))
    assert costs.predict(adaptive).seconds_accelerated is None
    costs.learn_pair(adaptive, side(14.0, 28, 28), side(8.0, 14, 28))
    measured = costs.predict(adaptive)
    assert (measured.source, measured.seconds_baseline, measured.seconds_accelerated) == ("measured", 17.0, 11.0)
    other_prompt = costs.predict(replace(adaptive, prompt="another"))
    assert other_prompt.source == "estimated" and other_prompt.seconds_accelerated == pytest.approx(3.0 + 8.0)
    other_threshold = costs.predict(replace(BASE, recipe=Recipe(cache=accel.EasyCache(0.12))))
    assert other_threshold.computed_share == 0.5
