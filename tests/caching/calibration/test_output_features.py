"""What a recipe keeps of a calibration: the same inner products at every step count, as plain data, or why not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

import accel
from accel import Calibration, OptimalSchedule, OutputFeatures, calibrating
from accel.anatomy import inspect
from accel.caching.calibration.fitting import calibrated, calibrations
from accel.recipe import Recipe
from tests.accel.witness import pipeline
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run

TURN = torch.linspace(-1.0, 1.0, 32).reshape(1, 2, 4, 4)


def outputs(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """A parabola in noise level, of another shape in every element."""
    return 2.0 + TURN * sigma + (1.0 - TURN**2) * sigma**2


def measured(steps: int = 20, **key: Any) -> Calibration:
    pipe = ToyPipeline(outputs)
    with calibrating(pipe) as calibration:
        pipe(num_inference_steps=steps)
    return replace(calibration, key=replace(calibration.key, **key))


def features(*calibration: Calibration) -> OutputFeatures:
    found = None
    for one in calibration:
        found = OutputFeatures.of(one, found)
    assert found is not None
    return found


def products(levels: list[float]) -> np.ndarray[Any, Any]:
    flat = torch.stack([outputs(TURN, sigma).flatten() for sigma in levels]).double()
    return np.asarray(flat @ flat.T / flat.shape[1])


@pytest.mark.parametrize("steps", [20, 12, 33])
def test_their_inner_products_are_those_of_the_outputs_at_any_step_count(steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    levels = [sigma for sigma in scheduler.sigmas.tolist()[:-1] if sigma >= 0.05]  # the lowest that 20 steps have
    found = features(measured()).at("transformer", levels)
    assert np.allclose(found @ found.T, products(levels), rtol=2e-3)


def test_between_two_guidance_scales_inner_products_are_linear_in_the_square() -> None:
    low, high = measured(guidance=2.0), measured(steps=24, guidance=6.0)
    table = high.tables[0]
    doubled = replace(table, gram=tuple(tuple(5.0 * value for value in row) for row in table.gram))
    both = features(low, replace(high, tables=(doubled,)))
    levels = [0.9, 0.6, 0.3]
    for scale, times in {2.0: 1.0, 6.0: 5.0, 4.0: 1.0 + 4.0 * 12.0 / 32.0, 1.0: 1.0, 9.0: 5.0}.items():
        found = both.at("transformer", levels, scale)
        assert np.allclose(found @ found.T, times * products(levels), rtol=5e-3), scale
    assert both.scales() == (2.0, 6.0)
    assert features(low, replace(low, key=replace(low.key, guidance=6.0))).at("transformer", levels).shape[0] == 3


def test_another_measurement_at_the_same_scale_takes_the_place_of_the_first() -> None:
    both = features(measured(guidance=2.0), measured(steps=30, guidance=2.0))
    assert both.also is None and len(both.sigmas) == 30


def test_a_recipe_keeps_them_as_plain_data_of_some_kilobytes() -> None:
    recipe = calibrated(Recipe(cache=OptimalSchedule(0.5), name="mine"), measured(steps=50))
    text = recipe.to_json()
    assert Recipe.from_dict(json.loads(text)) == recipe and recipe.name == "mine" and len(text) < 40_000


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [[1.0]]},
        {"rows": "no"},
        {"sigmas": [0.1, 0.9]},
        {"origin": ["a", "b"]},
        {"origin": [1, 2, 3, 4]},
        {"guidance": "high"},
        {"rows": [[float("nan")]] * 12},
    ],
)
def test_numbers_that_were_changed_are_refused_in_one_sentence(change: dict[str, Any]) -> None:
    data = calibrated(Recipe(cache=OptimalSchedule(0.5)), measured(steps=12)).to_dict()
    data["cache"]["features"] |= change
    with pytest.raises(ValueError, match=r"cache\.features: OutputFeatures are written by .* calibrate again"):
        Recipe.from_dict(data)


def test_levels_outside_of_what_was_measured_are_refused() -> None:
    whole = features(measured(steps=20))
    found = replace(whole, sigmas=whole.sigmas[:15], rows=whole.rows[:15])
    found.at("transformer", [1.0, 0.5, 0.22])
    with pytest.raises(ValueError, match=r"run's noise levels go from 1 to 0\.1, and those measured from 1 to 0\.26"):
        found.at("transformer", [1.0, 0.5, 0.1])


def test_two_experts_have_one_each() -> None:
    pipe = pipeline("wan_two_experts")
    with calibrating(pipe) as calibration:
        run(pipe, TINY["wan_two_experts"], steps=12)
    found = features(calibration)
    assert found.misfit(inspect(pipe)) == ""
    for table in calibration.tables:
        there = found.at(table.denoiser, table.sigmas)
        assert np.allclose(there @ there.T, table.inner_products(), rtol=0.05, atol=1e-3 * table.gram[0][0])
    assert replace(found, also=None).misfit(inspect(pipe)).startswith("the transformer_2 was not measured")


def test_what_was_measured_on_another_model_or_parametrisation_is_told_apart() -> None:
    pipe = TINY["sd"].build()
    with calibrating(pipe) as calibration:
        run(pipe, TINY["sd"], steps=12)
    found, anatomy = features(calibration), inspect(pipe)
    assert found.misfit(anatomy) == ""
    assert found.misfit(replace(anatomy, schedulers={"scheduler": "DPMSolverMultistepScheduler"})) == ""
    pipe.scheduler = DDIMScheduler(prediction_type="v_prediction")
    assert "measured for epsilon prediction, and this is v_prediction" in found.misfit(inspect(pipe))
    assert "was not measured, but unet" in found.misfit(inspect(pipeline("wan")))
    assert "M parameters" in replace(found, parameters=10**9).misfit(anatomy)


def test_a_cache_that_takes_nothing_is_told(tmp_path: Any) -> None:
    measured().save(tmp_path / "one.json")
    for recipe in (Recipe(), Recipe(cache=accel.EasyCache(0.1))):
        with pytest.warns(UserWarning, match="Nothing is taken from the calibration"):
            assert calibrated(recipe, tmp_path / "one.json") == recipe
    for other in (3, [measured(), 3]):
        with pytest.raises(TypeError, match=r"A calibration is what accel.*, not 3"):
            calibrations(other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="There is no calibration file"):
        calibrations(tmp_path / "none.json")
    assert [one.steps for one in calibrations([measured(12), str(tmp_path / "one.json")])] == [12, 20]


@pytest.mark.parametrize("change", ["outputs are not numbers", "noise rises"])
def test_what_says_nothing_is_told_and_left_out(change: str) -> None:
    """A model that overflows in half precision, and the inversion of a picture."""
    whole = measured()
    (table,) = whole.tables
    if change == "noise rises":
        table = replace(table, timetable=table.timetable[::-1])
    else:
        table = replace(table, gram=tuple((float("nan"),) * len(row) for row in table.gram))
    with pytest.warns(
        UserWarning, match="with finite outputs and falling noise levels, so forecasts are corrected as for any model"
    ):
        found = calibrated(Recipe(cache=OptimalSchedule()), replace(whole, tables=(table,))).cache
    assert found == OptimalSchedule()


def test_caches_without_constants_get_those_of_the_calibration() -> None:
    cache = calibrated(Recipe(cache=accel.MagCache(0.1)), measured()).cache
    assert isinstance(cache, accel.MagCache) and cache != accel.MagCache(0.1)
