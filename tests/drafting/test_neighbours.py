"""Search around the best noise: what a neighbour is, what the search spends, and that its winner can be run again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel import FixedInterval, Recipe
from accel.drafting.initial_noise import InitialNoise
from accel.drafting.neighbours import Moves, neighbour
from accel.measure.metrics import Clip, to_frames
from tests.accel.residue import of_denoisers
from tests.tiny import TINY
from tests.tiny.case import quiet

FAST = Recipe(cache=FixedInterval(4, warmup=1, min_steps=1))


@pytest.fixture(scope="module")
def wan() -> tuple[Any, dict[str, Any]]:
    """A pipeline that has run once, because diffusers adds attributes of its own then, and a call of it."""
    pipe = quiet(TINY["wan"].build())
    small = {"num_frames": 1, "height": 32, "width": 32, "num_inference_steps": 8}
    arguments = {**TINY["wan"].arguments(pipe), **small}
    pipe(**arguments)
    return pipe, arguments


def brightness(frames: Clip) -> float:
    return float(frames.mean())


@pytest.mark.parametrize("closeness", [0.1, 0.9, 0.99])
def test_a_neighbour_has_the_same_length_and_the_cosine_asked_for(closeness: float) -> None:
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = neighbour(noise, closeness, 1)
    assert float(found.norm()) == pytest.approx(float(noise.norm()), rel=1e-5)
    assert float(torch.cosine_similarity(found.flatten(), noise.flatten(), 0)) == pytest.approx(closeness, abs=1e-5)
    assert torch.equal(found, neighbour(noise, closeness, 1))
    assert not torch.equal(found, neighbour(noise, closeness, 2))


def test_moves_follow_one_another() -> None:
    noise = torch.randn(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Moves()(noise), noise)
    assert torch.equal(Moves((3, 4), 0.8)(noise), neighbour(neighbour(noise, 0.8, 3), 0.8, 4))


def test_the_winner_is_its_noise_run_again(wan: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = wan
    before = of_denoisers(pipe)
    found = accel.best_of(
        pipe, seeds=2, verifier=brightness, near=0.7, budget=2.0, draft=FAST, looks=(0.5,), recipe=Recipe(), **arguments
    )
    assert of_denoisers(pipe) == before and "prepare_latents" not in vars(pipe)
    first, around = found.rounds[:2]
    assert max(around.values()) > max(first.values()), "this many neighbours of a tiny model's noise hold a better one"
    plain = made_from(pipe, found.seed, found.moves, arguments)
    assert np.array_equal(found.frames, plain)


def made_from(pipe: Any, seed: int, moves: Moves, arguments: dict[str, Any]) -> Clip:
    """What the pipeline makes when it is given the moved noise itself."""
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = pipe.prepare_latents(1, 16, 32, 32, 1, torch.float32, torch.device("cpu"), generator)
    return to_frames(pipe(**arguments, latents=moves(noise)))


@pytest.mark.part(1)
@pytest.mark.parametrize("budget", [0.7, 1.5])
def test_the_budget_is_kept(wan: tuple[Any, dict[str, Any]], budget: float) -> None:
    pipe, arguments = wan
    found = accel.best_of(pipe, seeds=3, verifier=brightness, near=0.9, budget=budget, draft=FAST, **arguments)
    assert found.cost <= budget
    assert len(found.rounds[-1]) == 1, "one is finished"


@pytest.mark.parametrize("near", [0.0, 1.0, "close"])
def test_bad_closeness_is_one_sentence(wan: tuple[Any, dict[str, Any]], near: Any) -> None:
    pipe, arguments = wan
    with pytest.raises(ValueError, match="near is the cosine between a noise and its neighbours, above 0 and below 1"):
        accel.best_of(pipe, seeds=2, verifier=brightness, near=near, draft=FAST, **arguments)


def test_noise_beside_other_things_is_changed_alone() -> None:
    noise = InitialNoise(lambda made: made + 1.0)
    latents, picture = noise.prepare(lambda: (torch.zeros(2), "picture"))
    assert latents.tolist() == [1.0, 1.0] and picture == "picture"
    assert noise.made is not None and torch.equal(noise.made, latents)
