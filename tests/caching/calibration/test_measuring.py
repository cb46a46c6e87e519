"""What `measure` meets: schedulers, pipelines and calls of all kinds either work as they were measured, or are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

import accel
from accel import FittedSchedule, OptimalSchedule, Recipe
from accel.anatomy import inspect
from accel.caching import calibrate, measure
from accel.caching.extrapolate import Extrapolate
from accel.caching.predictor import LastOutput, Predictor
from accel.caching.run_fit import RunFit
from tests.accel.residue import traces
from tests.caching.methods.test_fitted_schedule import METHOD, SeededToy, error, reason, seeded
from tests.schedulers import SCHEDULERS

USED = "outputs are summed as was measured"


def test_a_solver_that_evaluates_a_time_twice_has_sums_of_its_own_for_each() -> None:
    pipe = SeededToy(FlowMatchHeunDiscreteScheduler())
    wanted, method = pipe(generator=seeded(5)), measure(pipe, ["x"], METHOD)
    found = {}
    for cache in (method, OptimalSchedule(0.3, max_skips=30)):
        with accel.accelerate(pipe, cache=cache):
            found[type(cache)] = error(pipe(generator=seeded(5)), wanted)
    assert found[FittedSchedule] < 2e-4 < found[OptimalSchedule]


@pytest.mark.parametrize("name", ["dpm sde", "SASolverScheduler", "DDPMScheduler"])
def test_noise_is_seen_beside_however_many_outputs(name: str) -> None:
    pipe = SeededToy(SCHEDULERS[name]())
    with pytest.raises(ValueError, match="its updates add noise"):
        measure(pipe, ["x"], METHOD)
    assert traces(pipe) == []


@pytest.mark.parametrize("predictor", [LastOutput(), Extrapolate(corrector=0)])
def test_sums_stand_in_for_predictors_that_correct_nothing(predictor: Predictor) -> None:
    pipe = SeededToy()
    assert USED in reason(pipe, measure(pipe, ["x"], replace(METHOD, predictor=predictor)))


def test_outputs_that_are_not_finite_are_told() -> None:
    pipe = SeededToy()
    formula = pipe.transformer.formula
    pipe.transformer.formula = lambda latents, sigma: formula(latents, sigma) / (sigma > 0.3)
    with pytest.raises(ValueError, match=r"in step 15 its output is not finite\.$"):
        measure(pipe, ["x"], METHOD)


@pytest.mark.parametrize("method", [FittedSchedule, OptimalSchedule(0.3)])
def test_another_method_is_told(method: Any) -> None:
    with pytest.raises(TypeError, match=r"measure wants a method such as FittedSchedule\(0\.25\)"):
        measure(SeededToy(), ["x"], method)


class GuidedToy(SeededToy):
    """Takes the arguments of guidance that pipelines have, and a picture first."""

    def __call__(  # type: ignore[override]
        self,
        image: float = 0.0,
        prompt: str = "",
        num_inference_steps: int = 20,
        guidance_scale: float = 5.0,
        guidance_rescale: float = 0.0,
        true_cfg_scale: float = 4.0,
        negative_prompt: str | None = None,
        generator: Any = None,
    ) -> torch.Tensor:
        assert isinstance(image, float)
        return super().__call__(prompt, num_inference_steps, generator)


def test_a_prompt_goes_by_its_name_because_some_pipelines_take_a_picture_first() -> None:
    assert measure(GuidedToy(), ["x"], METHOD, image=0.5).fit is not None
    assert calibrate(GuidedToy(), ["x"], image=0.5, layer_lags=0).key.prompts == 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, ""),
        ({"guidance_scale": 6.0}, "measured with guidance_scale=5"),
        ({"guidance_rescale": 0.7}, "measured with guidance_rescale=0"),
        ({"true_cfg_scale": 2.0}, ""),  # it is off without a negative prompt
        ({"negative_prompt": "dull"}, "measured with true_cfg_scale=1"),
    ],
)
def test_other_guidance_is_told(asked: dict[str, Any], told: str) -> None:
    pipe = GuidedToy()
    method = measure(pipe, ["x"], METHOD)
    if not told:
        assert USED in reason(pipe, method, **asked)
        return
    with pytest.warns(UserWarning, match=told):
        assert USED not in reason(pipe, method, **asked)


def test_a_run_that_ends_before_its_timetable_is_refused_because_calls_cannot_know_that() -> None:
    class Interrupted(SeededToy):
        def __call__(self, prompt: str = "", num_inference_steps: int = 20, generator: Any = None) -> torch.Tensor:
            self.scheduler.set_timesteps(num_inference_steps)
            latents = torch.randn(self.shape, generator=generator)
            for timestep in self.scheduler.timesteps[:15]:
                latents = self.scheduler.step(self.transformer(latents, timestep)[0], timestep, latents).prev_sample
            return latents

    pipe = Interrupted()
    with pytest.raises(ValueError, match=r"do not use what was measured \(.*from step 1 to 15"):
        measure(pipe, ["x"], METHOD)
    assert traces(pipe) == []


def test_a_denoiser_whose_calls_leave_more_than_an_output_is_refused() -> None:
    class Stateful(SeededToy):
        def __init__(self) -> None:
            super().__init__()
            formula = self.transformer.formula
            self.transformer.forward = lambda latents, timestep: (formula(latents, float(timestep) / 1000), {"keys": 1})

    with pytest.raises(ValueError, match="the output carries state"):
        measure(Stateful(), ["x"], METHOD)


def test_steps_that_nobody_hears_are_told() -> None:
    class Copying(SeededToy):
        def __call__(self, prompt: str = "", num_inference_steps: int = 20, generator: Any = None) -> torch.Tensor:
            self.scheduler.set_timesteps(num_inference_steps)
            latents = torch.randn(self.shape, generator=generator)
            for index, timestep in enumerate(self.scheduler.timesteps):
                answer = self.transformer(latents, timestep)[0]
                latents = latents - answer * (self.scheduler.sigmas[index] - self.scheduler.sigmas[index + 1])
            return latents

    with pytest.raises(ValueError, match="do not go in pairs"):
        measure(Copying(), ["x"], METHOD)


def test_a_run_that_is_too_short_is_left_alone_bit_for_bit() -> None:
    pipe = SeededToy()
    method = replace(measure(pipe, ["x"], METHOD), min_steps=30)
    wanted = pipe(generator=seeded(1))
    with accel.accelerate(pipe, cache=method):
        assert torch.equal(pipe(generator=seeded(1)), wanted)


def test_of_two_experts_one_may_have_had_no_step() -> None:
    pipe = SeededToy()
    fit, anatomy = measure(pipe, ["x"], METHOD).fit, inspect(pipe)
    assert fit is not None
    both = {"transformer": anatomy.denoisers["transformer"], "transformer_2": anatomy.denoisers["transformer"]}
    assert fit.misfit(replace(anatomy, denoisers=both)) == ""
    assert "was not measured" in fit.misfit(replace(anatomy, denoisers={"transformer_2": both["transformer_2"]}))


def test_samples_of_a_batch_depend_on_each_other_where_a_rough_one_makes_all_compute() -> None:
    method = measure(SeededToy(), ["x"], METHOD)
    assert METHOD.treats_samples_alike and not method.treats_samples_alike
    assert replace(method, rough=0.0).treats_samples_alike


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": ["transformer"]},
        {"first": "0"},
        {"first": 5},
        {"runs": 1.5},
        {"computed": [0, 99]},
        {"computed": 3},
        {"weights": [[1.0, 0.5]]},
        {"weights": 1.0},
        {"ahead": [[1.0]]},
        {"sigmas": [1.0, 0.5]},
        {"guidance": [["guidance_scale", "high"]]},
        {"guidance": [5.0]},
        {"errors": [float("nan")]},
    ],
)
def test_a_file_that_somebody_has_changed_is_told(changed: dict[str, Any]) -> None:
    written = Recipe(cache=measure(SeededToy(), ["x"], METHOD)).to_dict()
    assert Recipe.from_dict(written)
    written["cache"]["fit"] |= changed
    with pytest.raises(ValueError, match=r"cache\.fit: RunFit is written by accel\.caching\.measure"):
        Recipe.from_dict(written)


def test_a_fit_is_hashed_and_compared_as_its_numbers() -> None:
    fits = [measure(GuidedToy(), ["x"], METHOD).fit for _ in range(2)]
    assert isinstance(fits[0], RunFit) and len(set(fits)) == 1
