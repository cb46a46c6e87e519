"""The search for noise levels: its numbers by hand, its optimum by exhaustion, and what it finds on an exact score."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import accel
from accel.samplers import Euler, PseudoCorrector, SigmaTable
from accel.samplers.sigma_search import cheapest_path, growths, search_sigmas, step_errors
from tests.samplers.mixture import velocity
from tests.tiny import TINY

TIMES = [1.0, 0.9, 0.7, 0.6, 0.3, 0.2, 0.0]


def gram_of(velocities: np.ndarray) -> np.ndarray:
    return np.asarray(velocities @ velocities.T)


def test_a_constant_velocity_costs_nothing() -> None:
    errors = step_errors(np.ones((6, 6)), TIMES, 1)
    assert np.allclose(errors[np.isfinite(errors)], 0.0, atol=1e-7)
    assert np.isinf(errors[3, :4]).all()  # nobody steps back or stays


def test_a_velocity_that_is_linear_in_time_costs_an_euler_step_half_its_length_squared() -> None:
    velocities = np.array(TIMES[:-1])[:, None]  # v = t, so the integral from a to b is (b^2 - a^2) / 2
    first, second = (step_errors(gram_of(velocities), TIMES, order) for order in (1, 2))
    for start, end in itertools.combinations(range(6), 2):
        assert first[start, end] == pytest.approx((TIMES[start] - TIMES[end]) ** 2 / 2, abs=1e-9)
        assert second[start, end] == pytest.approx(0.0, abs=1e-7)


def test_the_path_is_the_cheapest_of_all() -> None:
    costs = np.triu(np.random.default_rng(0).random((9, 10)), 1)
    costs[costs == 0] = np.inf
    for steps in (2, 4, 7):
        paths = [(0, *middle) for middle in itertools.combinations(range(1, 9), steps - 1)]
        total = {path: sum(costs[a, b] for a, b in itertools.pairwise((*path, 9))) for path in paths}
        assert tuple(cheapest_path(costs, steps)) == min(total, key=total.__getitem__)


def test_all_steps_of_the_fine_run_are_the_only_path_of_that_length() -> None:
    costs = np.where(np.triu(np.ones((6, 7)), 1) > 0, 1.0, np.inf)
    assert cheapest_path(costs, 6) == [0, 1, 2, 3, 4, 5]


def test_early_errors_weigh_more_the_more_they_grow() -> None:
    assert growths(TIMES, 0.0) == pytest.approx([2.0] * 6)
    heavy = growths(TIMES, 0.75)
    assert (np.diff(heavy) < 0).all()


class Denoiser(torch.nn.Module):
    config: Any = None

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        return (velocity(hidden_states, float(timestep) / 1000),)


class MixturePipeline:
    """A flow model whose velocity is exact, under the plain schedule; the prompt changes nothing but the noise."""

    def __init__(self) -> None:
        self.scheduler, self.transformer = FlowMatchEulerDiscreteScheduler(), Denoiser()
        self.config = SimpleNamespace(_name_or_path="")
        self.components = {"transformer": self.transformer, "scheduler": self.scheduler}

    def __call__(
        self, prompt: str, num_inference_steps: int = 50, generator: Any = None, output_type: str = "latent"
    ) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        sample = torch.randn(64, 8, generator=generator, dtype=torch.float64)
        for timestep in self.scheduler.timesteps:
            sample = self.scheduler.step(self.transformer(sample, timestep)[0], timestep, sample)[0]
        return sample


@pytest.mark.slow  # a search for its outcome
@pytest.mark.part(1)
@pytest.mark.parametrize("sampler", [PseudoCorrector(), Euler()], ids=str)
def test_what_it_finds_beats_the_schedulers_levels_on_runs_it_has_not_seen(sampler: Any) -> None:
    pipe = MixturePipeline()
    search = search_sigmas(pipe, ["a", "b", "c", "d"], 8, sampler=sampler, fine=100)
    assert isinstance(search.sampler.sigmas, SigmaTable) and len(search.sampler.sigmas.sigmas) == 8
    truth = final(pipe, PseudoCorrector(), 400)
    own, found = (float((final(pipe, method, 8) - truth).norm()) for method in (sampler, search.sampler))
    print(f"{sampler}: {own:.3f} with the scheduler's levels, {found:.3f} with {search.sampler.sigmas}")
    assert found < 0.95 * own
    assert min(search.errors.values()) < search.errors["scheduler"]


def final(pipe: MixturePipeline, sampler: Any, steps: int) -> torch.Tensor:
    with accel.accelerate(pipe, accel.Recipe(sampler=sampler)):
        return pipe("e", steps, torch.Generator().manual_seed(77))


def test_a_real_pipeline_can_be_searched_and_is_as_before() -> None:
    pipe = TINY["flux"].build()
    arguments = {name: value for name, value in TINY["flux"].arguments(pipe).items()}
    embeds = {name: arguments.pop(name) for name in ("prompt_embeds", "pooled_prompt_embeds")}
    pipe.scheduler.set_timesteps(2, mu=1.0)  # makes the attributes that any run makes
    before = set(vars(pipe.scheduler))
    search = search_sigmas(pipe, [None, None], 4, fine=12, **arguments, **embeds)  # type: ignore[list-item]
    assert len(search.errors) == 5 and all(error > 0 for error in search.errors.values())
    assert search.errors["scheduler"] >= min(search.errors.values())
    assert set(vars(pipe.scheduler)) == before


def test_questions_that_cannot_be_answered_are_refused_in_one_sentence() -> None:
    pipe = MixturePipeline()
    with pytest.raises(ValueError, match="at least two prompts"):
        search_sigmas(pipe, ["a"], 8)
    with pytest.raises(ValueError, match="raise fine="):
        search_sigmas(pipe, ["a", "b"], 80)
    with pytest.raises(ValueError, match="chooses its noise levels itself"):
        search_sigmas(TINY["animatediff"].build(), ["a", "b"], 8)
