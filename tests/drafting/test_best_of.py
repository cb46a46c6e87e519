"""accel.best_of: halving finds what the verifier likes, within the budget, and the winner is its plain run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel import FixedInterval, Recipe
from accel.drafting.halving import affordable, prices
from accel.measure.metrics import Clip, to_frames
from accel.patch import session_of
from tests.accel.residue import of_denoisers
from tests.tiny import TINY
from tests.tiny.case import quiet

STEPS = 8
FAST = Recipe(cache=FixedInterval(4, warmup=1, min_steps=1))


@pytest.fixture(scope="module")
def wan() -> tuple[Any, dict[str, Any]]:
    """A pipeline that has run once, because diffusers adds attributes of its own then, and a call of it."""
    pipe = quiet(TINY["wan"].build())
    small = {"num_frames": 1, "height": 32, "width": 32, "num_inference_steps": STEPS}
    arguments = {**TINY["wan"].arguments(pipe), **small}
    pipe(**arguments)
    return pipe, arguments


def brightness(frames: Clip) -> float:
    return float(frames.mean())


def plain(pipe: Any, seed: int, arguments: dict[str, Any]) -> Clip:
    return to_frames(pipe(**arguments, generator=torch.Generator("cpu").manual_seed(seed)))


def test_the_winner_is_its_plain_run_bit_for_bit(wan: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = wan
    before = of_denoisers(pipe)
    found = accel.best_of(pipe, seeds=4, verifier=brightness, draft=FAST, recipe=Recipe(), **arguments)
    assert of_denoisers(pipe) == before
    assert np.array_equal(found.frames, plain(pipe, found.seed, arguments))


@pytest.mark.part(1)
@pytest.mark.parametrize("resolution", [accel.CoarseToFine(0.7), accel.ShiftedWindows(window=2)])
def test_steps_of_another_size_are_searched_too(wan: tuple[Any, dict[str, Any]], resolution: Any) -> None:
    """The first look foresees what the rest of the run will ask, at full size too where only a smaller one was."""
    pipe, arguments = wan
    draft = Recipe(resolution=resolution)
    found = accel.best_of(pipe, seeds=3, verifier=brightness, draft=draft, budget=2.0, **arguments)
    with accel.accelerate(pipe, draft) as session:
        assert np.array_equal(found.frames, plain(pipe, found.seed, arguments))
        assert session.report().levers[0].engaged


def test_with_a_budget_for_all_the_best_of_whole_runs_wins(wan: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = wan
    found = accel.best_of(pipe, seeds=3, verifier=brightness, draft=Recipe(), budget=3.0, **arguments)
    scores = {seed: brightness(plain(pipe, seed, arguments)) for seed in range(3)}
    assert found.rounds[-1] == scores
    assert found.seed == max(scores, key=lambda seed: scores[seed])
    assert found.cost == 3.0


@pytest.mark.part(1)
@pytest.mark.parametrize("budget", [0.6, 1.5])
def test_the_budget_is_kept_and_what_it_pays_for_is_tried(wan: tuple[Any, dict[str, Any]], budget: float) -> None:
    """A look and the rest cost the same each time, so what is planned is what is spent."""
    pipe, arguments = wan
    found = accel.best_of(pipe, seeds=8, verifier=brightness, draft=FAST, budget=budget, **arguments)
    evaluated = [0]
    hook = pipe.transformer.blocks[0].register_forward_hook(lambda *_: evaluated.append(1))
    again = accel.best_of(pipe, seeds=8, verifier=brightness, draft=FAST, budget=budget, **arguments)
    hook.remove()
    assert found.cost <= budget
    assert again.rounds == found.rounds
    assert sum(evaluated) / (2 * STEPS) == pytest.approx(found.cost)
    assert len(found.rounds[0]) == found.tried
    sizes = [len(scores) for scores in found.rounds]
    assert sizes == sorted(sizes, reverse=True)


def test_survivors_are_the_better_ones(wan: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = wan
    found = accel.best_of(pipe, seeds=8, verifier=brightness, draft=FAST, **arguments)
    for before, after in zip(found.rounds, found.rounds[1:], strict=False):
        dropped = [score for seed, score in before.items() if seed not in after]
        assert all(before[seed] >= max(dropped, default=0.0) for seed in after)
    assert found.seed == max(found.rounds[-1], key=lambda seed: found.rounds[-1][seed])


@pytest.mark.slow  # many searches for one number; what is chosen by is tested above
def test_a_random_verifier_gains_nothing(wan: tuple[Any, dict[str, Any]]) -> None:
    """Over many searches among the same three seeds each wins about as often, whatever becomes of it."""
    pipe, arguments = wan
    random, wins = np.random.default_rng(0), np.zeros(3)
    for _ in range(12):
        plan = {"draft": Recipe(), "looks": (0.5,), "recipe": Recipe(), "num_inference_steps": 2}
        found = accel.best_of(pipe, seeds=3, verifier=lambda frames: float(random.random()), **{**arguments, **plan})
        wins[found.seed] += 1
    assert wins.max() <= 8


def test_a_verifier_may_see_the_prompt_and_give_matches(wan: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = wan

    class Verdict:
        matches = {"colour": True, "shape": False}  # noqa: RUF012

    seen: list[Any] = []

    def verifier(frames: Clip, prompt: str | None) -> Verdict:
        seen.append(prompt)
        return Verdict()

    found = accel.best_of(pipe, "a word", seeds=2, verifier=verifier, draft=FAST, **arguments)
    assert set(seen) == {"a word"}
    assert found.rounds[0] == {0: 0.5, 1: 0.5}
    assert found.seed == 0


def test_an_error_of_the_verifier_leaves_the_pipeline_as_it_was(wan: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = wan
    before, session = of_denoisers(pipe), accel.accelerate(pipe, FAST)
    with pytest.raises(InterruptedError):
        accel.best_of(pipe, seeds=2, verifier=_interrupting, draft=FAST, **arguments)
    assert session_of(pipe) is session
    session.restore()
    assert of_denoisers(pipe) == before


def _interrupting(frames: Clip) -> float:
    raise InterruptedError


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"verifier": "clip"}, "The verifier is a function that gives frames a score, not 'clip'"),
        ({"verifier": lambda frames: "good"}, "The verifier must give a number, not 'good'"),
        ({"verifier": lambda frames: float("nan")}, "The verifier must give a finite number"),
        ({"verifier": lambda: 1.0}, "The verifier is called with frames, or with frames and the prompt"),
        ({"budget": None}, "The budget is a number of unaccelerated runs above 0, not None"),
        ({"budget": 0.0}, "The budget is a number of unaccelerated runs above 0"),
        ({"seeds": 0}, "seeds is a number of seeds"),
        ({"seeds": (1, 1)}, "seeds is a number of seeds"),
        ({"seeds": [2**64]}, "a seed must be a whole number from"),
        ({"looks": 0.5}, "looks are shares of a run in rising order, such as .*, not 0.5"),
        ({"looks": (0.5, 0.25)}, "looks are shares of a run in rising order"),
        ({"looks": (), "recipe": Recipe()}, "Without a look nothing can be chosen"),
        ({"generator": torch.Generator()}, "The noise is made here"),
    ],
)
def test_bad_input_is_one_sentence(wan: tuple[Any, dict[str, Any]], wrong: dict[str, Any], sentence: str) -> None:
    pipe, arguments = wan
    with pytest.raises((ValueError, TypeError), match=sentence):
        accel.best_of(pipe, **{"seeds": 2, "verifier": brightness, "draft": FAST, **arguments, **wrong})


def test_a_stage_costs_what_its_steps_evaluate() -> None:
    """Eight steps of two samples; a look at a half ends behind the step that follows a computed one."""
    assert prices([2, 0, 2, 0, 0, 2, 0, 2], [0.25, 0.5, 1.0]) == [2 / 16, 2 / 16, 4 / 16]
    assert prices([2] * 8, [0.25, 1.0]) == [0.25, 0.75]


@pytest.mark.parametrize(("budget", "seeds"), [(15 / 16, 8), (14 / 16, 7), (4 / 16, 1), (3 / 16, 0), (100.0, 8)])
def test_eight_seeds_cost_fifteen_sixteenths_with_quarters_of_a_quarter(budget: float, seeds: int) -> None:
    assert affordable(8, [1 / 16] * 4, budget) == seeds
