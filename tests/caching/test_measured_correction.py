"""Corrections by what was measured of a model: exact where a polynomial only guesses, told in the report, and never in
silence those of any model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import accel
from accel import Calibration, FixedInterval, OptimalSchedule, calibrating
from accel.caching.cache_method import CacheMethod
from accel.caching.measured_correction import MeasuredWay
from accel.presets import PRESETS
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run

SIGNS = torch.where(torch.arange(32).reshape(1, 2, 4, 4) % 2 == 0, 1.0, -1.0)
SHARE = OptimalSchedule(0.4)
TOLD = "forecasts are corrected by this model's own outputs, measured over 30 steps of FlowMatchEulerDiscreteScheduler"


def bent(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """Straight but for the middle of the run, where no prior would look for it."""
    return SIGNS * (1.0 + max(0.0, 0.25 - abs(sigma - 0.5)) ** 2 * 40.0)


def measured(pipe: Any, steps: int = 30) -> Calibration:
    with calibrating(pipe) as calibration:
        pipe(num_inference_steps=steps)
    return calibration


def marks(pipe: Any, steps: int = 30, **recipe: Any) -> tuple[str, str]:
    """Which steps compute, and the cache's line in the report."""
    with accel.accelerate(pipe, **recipe) as session:
        pipe(num_inference_steps=steps)
        return next(iter(session.report().timeline().values())), session.report().levers[0].reason


def steps_of(sigmas: list[float]) -> MeasuredWay:
    """Outputs that move along a curve with a bend in it."""
    return MeasuredWay({sigma: np.array([1.0, sigma, np.exp(-30.0 * (sigma - 0.5) ** 2)]) for sigma in sigmas})


def test_weights_are_those_of_the_outputs_themselves() -> None:
    way = steps_of([0.9, 0.6, 0.5, 0.4, 0.1])
    nodes, steps = [0.9, 0.6, 0.1], [(0.5, 2.0), (0.4, -1.0)]
    weights = way.weights(nodes, steps)
    assert weights is not None
    wanted = sum(weight * way.rows[time] for time, weight in steps)
    made = sum(weight * way.rows[time] for time, weight in zip(nodes, weights, strict=True))
    straight = 2.0 * (0.2 * way.rows[0.1] + 0.8 * way.rows[0.6]) - (0.4 * way.rows[0.1] + 0.6 * way.rows[0.6])
    assert np.linalg.norm(made - wanted) < 0.1 * np.linalg.norm(straight - wanted)


def test_outputs_that_stand_still_get_a_straight_lines_weights() -> None:
    way = MeasuredWay({sigma: np.array([2.0, -1.0]) for sigma in (1.0, 0.75, 0.5, 0.0)})
    assert way.weights([1.0, 0.5, 0.0], [(0.25, 1.0)]) is None
    assert way.weights([1.0, 0.0], [(0.75, 1.0)]) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize(
    ("times", "steps"), [([0.9], [(0.6, 1.0)]), ([0.9, 0.3], [(0.6, 1.0)]), ([0.9, 0.6], [(0.7, 1.0)])]
)
def test_what_was_not_measured_has_no_weights(times: list[float], steps: list[tuple[float, float]]) -> None:
    assert steps_of([0.9, 0.6, 0.1]).weights(times, steps) is None


def error(pipe: Any, steps: int = 30, **recipe: Any) -> float:
    """Of the latents at the end of a run, which its outputs add up to."""
    plain = pipe(num_inference_steps=steps)
    with accel.accelerate(pipe, **recipe) as session:
        output = pipe(num_inference_steps=steps)
    assert session.report().predicted > 0
    moves = torch.diff(pipe.scheduler.sigmas)
    return float(torch.tensordot(moves, output - plain, 1).norm())


def test_a_bend_that_was_measured_is_corrected_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = ToyPipeline(bent)
    calibration = measured(pipe)
    found = error(pipe, cache=SHARE, calibration=calibration)
    monkeypatch.setattr(OptimalSchedule, "informed", CacheMethod.informed)
    assert found < 0.3 * error(pipe, cache=SHARE, calibration=calibration)


def test_the_same_call_gives_the_same_bits_whatever_ran_before() -> None:
    pipe = ToyPipeline(bent)
    with accel.accelerate(pipe, cache=SHARE, calibration=measured(pipe)):
        first = pipe(num_inference_steps=30)
        pipe(num_inference_steps=17)
        assert torch.equal(pipe(num_inference_steps=30), first)
    other = ToyPipeline(lambda x, sigma: SIGNS * sigma**3)
    with accel.accelerate(other, cache=SHARE, calibration=measured(other)):
        other(num_inference_steps=30)
    with accel.accelerate(pipe, cache=SHARE, calibration=measured(pipe)):
        assert torch.equal(pipe(num_inference_steps=30), first)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["flux", "sd", "wan_two_experts", "cogvideox"])
def test_on_real_pipelines_it_acts_through_a_recipes_file_and_is_undone(name: str, tmp_path: Any) -> None:
    pipe = TINY[name].build()
    with accel.calibrating(pipe) as calibration:
        plain = run(pipe, TINY[name], steps=12)
    with accel.accelerate(pipe, accel.Recipe(cache=SHARE), calibration=calibration) as session:
        output = run(pipe, TINY[name], steps=12)
        assert session.report().predicted > 0 and torch.isfinite(output).all()
        session.recipe.save(tmp_path / "recipe.json")
    assert torch.equal(run(pipe, TINY[name], steps=12), plain)
    other = TINY[name].build()
    with accel.accelerate(other, tmp_path / "recipe.json"):
        again = run(other, TINY[name], steps=12)
    assert torch.equal(again, output)


def test_a_cache_that_never_skips_changes_no_bit() -> None:
    pipe = ToyPipeline(bent)
    calibration, plain = measured(pipe), pipe(num_inference_steps=30)
    with accel.accelerate(pipe, cache=OptimalSchedule(1.0), calibration=calibration):
        assert torch.equal(pipe(num_inference_steps=30), plain)


def test_a_method_without_measurements_corrects_as_ever() -> None:
    method = FixedInterval()
    assert method.informed(method.predictor, None, range(3), None) == (method.predictor, "")


@pytest.mark.part(2)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("steps", [14, 30])
def test_presets_compute_the_same_steps(preset: str, steps: int) -> None:
    pipe = ToyPipeline(bent)
    calibration, named = measured(pipe), PRESETS[preset].recipe
    recipe = replace(named, cache=replace(named.cache, guard=0.0), name=preset)  # what a guard adds depends on the run
    plain, _ = marks(pipe, steps, recipe=recipe)
    same, reason = marks(pipe, steps, recipe=recipe, calibration=calibration)
    assert same == plain
    assert "·" not in same or TOLD in reason


def test_levels_that_were_not_measured_are_told_before_the_run_and_corrected_as_for_any_model() -> None:
    class FromPicture(ToyPipeline):
        """The second half of the run, as of image-to-image."""

        def __call__(self, *args: Any, half: bool = False, **options: Any) -> torch.Tensor:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self.scheduler, "sigma_max", 0.5 if half else 1.0)
                return super().__call__(*args, **options)

    pipe = FromPicture(bent)
    with calibrating(pipe) as calibration:
        pipe(half=True)
    with pytest.warns(UserWarning, match="does not fit .the run's noise levels go from 1 to .*any model"):
        _, reason = marks(pipe, cache=SHARE, calibration=calibration)
    assert "the calibration does not fit" in reason


def test_another_model_is_told_at_once_and_corrected_as_any(recwarn: pytest.WarningsRecorder) -> None:
    pipe = ToyPipeline(bent)
    pipe.transformer.extra = torch.nn.Linear(2, 2)
    calibration = measured(pipe)
    other = ToyPipeline(bent)
    plain, _ = marks(other, recipe="fast")
    with (
        pytest.warns(UserWarning, match="does not fit this pipeline") as told,
        accel.accelerate(other, "fast", calibration=calibration) as session,
    ):
        assert len(told) == 1
        other(num_inference_steps=30)
    assert next(iter(session.report().timeline().values())) == plain
    assert "so forecasts are corrected as for any model" in str(session.report())


def test_another_shift_is_interpolated() -> None:
    pipe = ToyPipeline(bent)
    calibration = measured(pipe)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    _, reason = marks(pipe, cache=SHARE, calibration=calibration)
    assert TOLD in reason


def test_a_call_at_another_guidance_scale_is_told_what_was_measured() -> None:
    class Guided(ToyPipeline):
        def __call__(self, *args: Any, guidance_scale: float = 5.0, **options: Any) -> torch.Tensor:
            return super().__call__(*args, **options)

    pipe = Guided(bent)
    calibration = measured(pipe)
    _, reason = marks(pipe, cache=OptimalSchedule(0.5), calibration=calibration)
    assert "at guidance 5" in reason and "this call" not in reason
    with accel.accelerate(pipe, cache=OptimalSchedule(0.5), calibration=calibration) as session:
        pipe(num_inference_steps=30, guidance_scale=2.0)
    assert "at guidance 5 (this call has 2)" in str(session.report())
