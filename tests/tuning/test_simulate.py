"""The simulation against real runs: what it says of computed steps and evaluations is what then happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel import pocket
from accel.caching.calibration.calibrate import CalibrationRuns, record
from accel.measure.metrics import psnr, to_frames
from accel.measure.pipeline_runs import without_progress_bars
from accel.recipe import Recipe
from accel.samplers import AdaptiveGuidance, GuidanceDelta
from accel.tuning.simulate import Simulator
from accel.tuning.space import Candidate, Recipes, Structure, caches, space_of
from tests import shallow

STEPS = 20
PROMPT = pocket.prompts(1, 41)[0]
CALL: dict[str, Any] = {
    "num_inference_steps": STEPS, "num_frames": 1, "height": 32, "width": 32, "output_type": "np"
}  # fmt: skip


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    found = shallow.load("video")
    with without_progress_bars(found):
        yield found


@pytest.fixture(scope="module")
def recording(pipe: Any) -> CalibrationRuns:
    return record(pipe, [PROMPT], layer_lags=0, **CALL)


@pytest.fixture(scope="module")
def foresight(recording: CalibrationRuns) -> Simulator:
    return Simulator.of(recording)


def run(pipe: Any, recipe: Recipe) -> tuple[Any, Any]:
    with accel.accelerate(pipe, recipe) as session:
        frames = to_frames(pipe(PROMPT, generator=torch.Generator().manual_seed(0), **CALL))
        return frames, session.report()


@pytest.mark.part(3)
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(cache=accel.OptimalSchedule(0.5)),
        Recipe(cache=accel.FixedInterval(3, warmup=2)),
        Recipe(guidance=GuidanceDelta()),
        Recipe(guidance=GuidanceDelta(1.2)),
        Recipe(guidance=AdaptiveGuidance()),
        Recipe(guidance=AdaptiveGuidance(0.9, rest="conditional")),
        Recipe(guidance=accel.GuidanceInterval(0.5)),
        Recipe(cache=accel.OptimalSchedule(0.6), guidance=GuidanceDelta(1.3)),
        Recipe(cache=accel.OptimalSchedule(0.6), guidance=AdaptiveGuidance()),
        Recipe(sampler=accel.PseudoCorrector(steps=0.5)),
        Recipe(cache=accel.OptimalSchedule(0.6), sampler=accel.PseudoCorrector(steps=0.5)),
        Recipe(cache=accel.OptimalSchedule(0.6), sampler=accel.UniPC(steps=0.5), guidance=GuidanceDelta(1.3)),
        Recipe(cache=accel.OptimalSchedule(0.6), sampler=accel.UniPC(steps=0.35)),
    ],
    ids=lambda recipe: recipe.label,
)
def test_it_counts_the_evaluations_of_the_real_run(pipe: Any, foresight: Simulator, recipe: Recipe) -> None:
    _, report = run(pipe, recipe)
    outlook = foresight.outlook(recipe)
    assert outlook.evaluations == pytest.approx(report.computed / (2 * STEPS))
    steps = {call.step for call in report.calls if call.action == "computed"}
    assert outlook.computed == pytest.approx(len(steps) / STEPS)


def test_a_calibrated_schedule_under_a_sampler_computes_what_was_foreseen(
    pipe: Any, recording: CalibrationRuns
) -> None:
    recipes = Recipes(recording.calibration, STEPS)
    recipe = recipes.of(Candidate(Structure("StaticSchedule", sampler=accel.PseudoCorrector(steps=0.5)), 0.6))
    assert recipe is not None
    _, report = run(pipe, recipe)
    assert Simulator.of(recording).outlook(recipe).evaluations == report.computed / (2 * STEPS) == 0.3


def test_caches_that_measure_compute_nearly_what_was_foreseen(pipe: Any, recording: CalibrationRuns) -> None:
    foresight, recipes = Simulator.of(recording), Recipes(recording.calibration, STEPS)
    for name in (name for name, method in caches().items() if not method.data_free):
        recipe = recipes.of(Candidate(Structure(name), 0.6))
        assert recipe is not None
        _, report = run(pipe, recipe)
        assert foresight.outlook(recipe).evaluations == pytest.approx(report.computed / (2 * STEPS), abs=0.15)


@pytest.mark.slow  # correlations of five runs
def test_less_error_foreseen_is_more_fidelity(pipe: Any, recording: CalibrationRuns) -> None:
    """Between schedules of one structure the order is right, and the ratio within a factor of a few."""
    foresight, recipes = Simulator.of(recording), Recipes(recording.calibration, STEPS)
    reference, _ = run(pipe, Recipe())
    foreseen, measured = [], []
    for share in (0.8, 0.6, 0.45, 0.35):
        recipe = recipes.of(Candidate(Structure("StaticSchedule"), share))
        assert recipe is not None
        foreseen.append(-10 * np.log10(foresight.outlook(recipe).errors["cache"]))
        measured.append(psnr(run(pipe, recipe)[0], reference))
    assert foreseen == sorted(foreseen, reverse=True)
    assert measured == sorted(measured, reverse=True)
    assert np.ptp(np.array(foreseen) - np.array(measured)) < 12.0


def test_it_can_be_kept_and_read_back(foresight: Simulator, tmp_path: Path) -> None:
    foresight.save(tmp_path)
    again = Simulator.load(tmp_path, foresight.anatomy)
    assert again is not None
    recipe = Recipe(cache=accel.OptimalSchedule(0.5), guidance=AdaptiveGuidance())
    assert again.outlook(recipe) == foresight.outlook(recipe)
    assert Simulator.load(tmp_path / "elsewhere", foresight.anatomy) is None


def test_without_guidance_there_is_one_pass(pipe: Any) -> None:
    alone = Simulator.of(record(pipe, [PROMPT], layer_lags=0, **CALL, guidance_scale=1.0))
    assert not alone.passes
    assert alone.outlook(Recipe(cache=accel.OptimalSchedule(0.5))).evaluations == pytest.approx(0.5)


def test_the_space_holds_what_can_act_here_and_says_why_not_the_rest(recording: CalibrationRuns) -> None:
    guided = space_of(recording.anatomy, recording.calibration, STEPS, True, ("cache", "guidance"), False)
    assert "StaticSchedule" in guided.caches and guided.others["guidance"] and not guided.others["sampler"]
    alone = space_of(recording.anatomy, recording.calibration, STEPS, False, ("cache", "guidance"), True)
    assert alone.caches == ("OptimalSchedule",) and not alone.others["guidance"]
    assert "guidance is off" in alone.left_out["guidance"]
