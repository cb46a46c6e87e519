"""FittedSchedule: exact where outputs stay in a plane, nearer than any prior elsewhere, and never silent where what was
measured does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

import accel
from accel import FittedSchedule, OptimalSchedule, Recipe
from accel.caching import measure
from accel.caching.run_fit import RunFit
from tests.accel.residue import traces
from tests.accel.witness import pipeline, plain
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run

METHOD = FittedSchedule(0.3)
SIGNS = torch.where(torch.arange(32).reshape(1, 2, 4, 4) % 2 == 0, 1.0, -1.0)


class SeededToy(ToyPipeline):
    """Begins from noise, two kinds of which decay at rates of their own; returns the last latents."""

    def __init__(self, scheduler: Any = None) -> None:
        super().__init__(lambda latents, sigma: latents + 0.8 * (1.0 + sigma) * SIGNS * (latents * SIGNS).mean())
        if scheduler is not None:
            self.scheduler = scheduler

    def __call__(self, prompt: str = "", num_inference_steps: int = 20, generator: Any = None) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        latents = torch.randn(self.shape, generator=generator)
        for timestep in self.scheduler.timesteps:
            answer = self.transformer(latents, timestep)[0]
            latents = self.scheduler.step(answer, timestep, latents, return_dict=False)[0]
        return latents


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def unipc() -> Any:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0)


@pytest.mark.parametrize("scheduler", [FlowMatchEulerDiscreteScheduler, unipc])
def test_it_is_exact_where_outputs_stay_in_a_plane(scheduler: Any) -> None:
    """The weights do not depend on where a run begins, so one run tells those of all others."""
    pipe = SeededToy(scheduler())
    wanted, calls = pipe(generator=seeded(5)), pipe.transformer.calls
    method = measure(pipe, ["x"], METHOD)
    pipe.transformer.calls = 0
    with accel.accelerate(pipe, cache=method):
        found = pipe(generator=seeded(5))
    assert pipe.transformer.calls == 6 < calls
    with accel.accelerate(pipe, cache=OptimalSchedule(0.3)):
        even = pipe(generator=seeded(5))
    assert error(found, wanted) < 2e-4 < error(even, wanted) / 20


def test_the_runs_of_a_measurement_cost_what_it_says() -> None:
    pipe = SeededToy()
    pipe(generator=seeded(0))
    once, pipe.transformer.calls = pipe.transformer.calls, 0
    measure(pipe, ["x", "y"], METHOD)
    assert pipe.transformer.calls == 2 * (once + 3 * 6)  # in full, two sweeps along it, and what was fitted


NAMES = ["wan", "sd", "flux", "wan_two_experts", "cogvideox"]


@pytest.mark.part(2)
@pytest.mark.parametrize("name", NAMES)
def test_tiny_pipelines_come_nearer_than_with_the_same_steps_and_no_measurement(name: str) -> None:
    pipe = pipeline(name)
    method = measure(pipe, ["x"], FittedSchedule(0.5, min_steps=2), generate=lambda pipe, *_: run(pipe, TINY[name]))
    assert traces(pipe) == [] and torch.equal(run(pipe, TINY[name]), plain(name))
    found = {}
    for cache in (replace(method, rough=0.0), OptimalSchedule(0.5, min_steps=2)):
        with accel.accelerate(pipe, cache=cache) as session:
            found[type(cache)] = error(run(pipe, TINY[name]), plain(name)), session.report().computed
    assert found[FittedSchedule][1] == found[OptimalSchedule][1]
    assert found[FittedSchedule][0] < found[OptimalSchedule][0]
    assert torch.equal(run(pipe, TINY[name]), plain(name))


def test_a_recipe_keeps_it_and_gives_the_same_output() -> None:
    pipe = SeededToy()
    recipe = Recipe(cache=measure(pipe, ["x"], METHOD))
    again = Recipe.from_dict(recipe.to_dict())
    assert again == recipe
    found = []
    for one in (recipe, again):
        with accel.accelerate(pipe, one):
            found.append(pipe(generator=seeded(3)))
    assert torch.equal(*found)


def reason(pipe: Any, cache: FittedSchedule, **call: Any) -> str:
    with accel.accelerate(pipe, cache=cache) as session:
        pipe(**call)
        return session.report().levers[0].reason


def test_before_it_is_measured_it_says_what_to_do_and_acts_as_the_schedule_that_needs_no_measurement() -> None:
    pipe = SeededToy()
    with pytest.warns(UserWarning, match=r"has not been measured.*accel\.caching\.measure"):
        session = accel.accelerate(pipe, cache=METHOD)
    found = pipe(generator=seeded(1))
    session.restore()
    with accel.accelerate(pipe, cache=OptimalSchedule(0.3, max_skips=30)):
        assert torch.equal(found, pipe(generator=seeded(1)))


def test_another_timetable_solver_or_setting_is_told_and_not_guessed_at() -> None:
    pipe = SeededToy()
    method = measure(pipe, ["x"], METHOD, num_inference_steps=20)
    assert "outputs are summed as was measured in 1 runs" in reason(pipe, method)
    with pytest.warns(UserWarning, match="does not fit .*in 20 steps of FlowMatchEulerDiscreteScheduler"):
        assert "acts as OptimalSchedule" in reason(pipe, method, num_inference_steps=24)
    with pytest.warns(UserWarning, match="measured with other settings of the schedule"):
        reason(pipe, replace(method, compute=0.5))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    with pytest.warns(UserWarning, match="at other noise levels"):
        reason(pipe, method)


def test_another_model_is_told_when_it_is_accelerated() -> None:
    pipe = SeededToy()
    method = measure(pipe, ["x"], METHOD)
    fit = method.fit
    assert isinstance(fit, RunFit)
    other = replace(method, fit=replace(fit, origin=("unet", *fit.origin[1:])))
    with pytest.warns(UserWarning, match="the transformer was not measured"):
        accel.accelerate(pipe, cache=other).restore()


def test_a_rough_run_is_computed_in_full_and_the_report_says_so() -> None:
    pipe = SeededToy()
    method = measure(pipe, ["x"], METHOD)
    assert isinstance(method.fit, RunFit)
    calm = replace(method, fit=replace(method.fit, errors=(1e-9,) * len(method.fit.errors)))
    with accel.accelerate(pipe, cache=calm) as session:
        pipe(generator=seeded(2))
        report = session.report()
    assert report.computed > 10 and "times worse than in the runs that the sums were fitted to" in str(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": "a corgi"}, "a list of at least one prompt"),
        ({"prompts": []}, "a list of at least one prompt"),
        ({"prompts": ["x"], "generator": seeded(0)}, "Leave generator out"),
        ({"prompts": ["x"], "num_inference_steps": 4}, "computes all of a run of 4 steps"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(arguments: dict[str, Any], message: str) -> None:
    pipe = SeededToy()
    with pytest.raises(ValueError, match=message):
        measure(pipe, arguments.pop("prompts"), METHOD, **arguments)
    assert traces(pipe) == []


def test_schedulers_that_add_noise_are_refused() -> None:
    pipe = SeededToy(EulerAncestralDiscreteScheduler(prediction_type="epsilon"))
    with pytest.raises(ValueError, match="cannot be fitted"):
        measure(pipe, ["x"], METHOD)
    assert traces(pipe) == []


def test_calls_that_begin_from_other_noise_every_time_are_refused() -> None:
    pipe, noise = SeededToy(), seeded(0)
    with pytest.raises(ValueError, match="began from different latents"):
        measure(pipe, ["x"], METHOD, generate=lambda pipe, *_: pipe(generator=noise))


def test_pipelines_that_change_their_latents_between_steps_are_refused() -> None:
    class Inpainting(SeededToy):
        def __call__(self, prompt: str = "", num_inference_steps: int = 20, generator: Any = None) -> torch.Tensor:
            self.scheduler.set_timesteps(num_inference_steps)
            latents = torch.randn(self.shape, generator=generator)
            for timestep in self.scheduler.timesteps:
                latents = self.scheduler.step(self.transformer(latents, timestep)[0], timestep, latents).prev_sample
                latents[..., :2] = 0.5
            return latents

    with pytest.raises(ValueError, match="changes its latents between two steps"):
        measure(Inpainting(), ["x"], METHOD)
