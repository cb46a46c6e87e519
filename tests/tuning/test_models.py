"""`accel.tune` over several models: each choice runs as its own pipeline would, and runs are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel import FixedInterval, Recipe, ShiftedWindows, pocket
from accel.measure.metrics import Clip, to_frames
from accel.measure.pipeline_runs import without_progress_bars
from accel.tuning import ModelChoice, ModelFront, Route
from accel.tuning.models import RUNS, default_choices
from tests import shallow
from tests.accel.residue import of_denoisers

CALL = {"num_frames": 1, "height": 32, "width": 32}
PROMPTS = pocket.prompts(2, 3)
FAST = Recipe(cache=FixedInterval(2, warmup=1, min_steps=1))
CHOICES = [ModelChoice("base", 0, 4), ModelChoice("base, fast", 0, 4, FAST), ModelChoice("few", 1)]


@pytest.fixture(scope="module")
def pipes() -> list[Any]:
    """They have run once, because diffusers adds attributes of its own then."""
    found = [shallow.load("video"), shallow.load("few")]
    for pipe in found:
        with without_progress_bars(pipe):
            pipe(PROMPTS[0], num_inference_steps=2, **CALL)
    return found


def brightness(frames: Clip) -> float:
    return float(frames.mean())


@pytest.fixture(scope="module")
def found(pipes: list[Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFront, Path]:
    out = tmp_path_factory.mktemp("front")
    before = [of_denoisers(pipe) for pipe in pipes]
    front = accel.tune(pipes, PROMPTS, verify=brightness, choices=CHOICES, call_arguments=CALL, out=out, progress=False)
    assert [of_denoisers(pipe) for pipe in pipes] == before
    return front, out


def test_each_choice_is_scored_on_what_its_pipeline_makes(pipes: list[Any], found: tuple[ModelFront, Path]) -> None:
    front, _ = found
    assert [one.choice.label for one in front.results] == ["base", "base, fast", "few"]
    with without_progress_bars(pipes[1]):
        clip = to_frames(pipes[1](PROMPTS[1], generator=torch.Generator("cpu").manual_seed(1), **CALL))
    assert front.results[2].scores[1] == pytest.approx(brightness(clip))
    assert all(seconds > 0.0 for one in front.results for seconds in one.seconds)
    assert str(front).count("score") == 3


def test_the_same_call_goes_on_where_it_was(pipes: list[Any], found: tuple[ModelFront, Path]) -> None:
    front, out = found
    kept = (out / RUNS).read_text().splitlines()
    (out / RUNS).write_text("\n".join(kept[:-1]) + "\n")
    said: list[str] = []
    again = accel.tune(
        pipes, PROMPTS, verify=brightness, choices=CHOICES, call_arguments=CALL, out=out, tell=said.append
    )
    assert said == ["few, prompt 2 of 2"]
    assert [one.scores for one in again.results] == [one.scores for one in front.results]
    with pytest.raises(ValueError, match="holds runs with other settings"):
        accel.tune(pipes, PROMPTS, verify=brightness, choices=CHOICES, call_arguments=CALL, out=out, seed=1)


def test_the_usual_choices_switch_models_too(pipes: list[Any]) -> None:
    labels = [choice.label for choice in default_choices(pipes)]
    assert len(labels) == len(set(labels))
    assert sum("above" in label or "below" in label for label in labels) == 4


def test_the_usual_choices_have_the_levers_that_make_another_clip(pipes: list[Any]) -> None:
    """Beside a preset: a score judges them, where PSNR says nothing of a smaller size."""
    beside = {choice.label: choice for choice in default_choices(pipes) if choice.beside}
    levers = {lever for choice in beside.values() for lever in choice.recipe.methods()}
    assert levers == {"cache", "resolution", "attention"}
    assert {choice.beside for choice in beside.values()} == {"0: video, fast"}


def test_one_run_is_enough_to_leave_a_lever_that_saves_nothing(pipes: list[Any], tmp_path: Path) -> None:
    idle = Recipe(resolution=ShiftedWindows(window=64))
    choices = [
        ModelChoice("base", 0, 2),
        ModelChoice("idle", 0, 2, idle, beside="base"),
        ModelChoice("slower", 0, 12, beside="base"),
        ModelChoice("slower, and by itself", 0, 12),
    ]
    asked = {"verify": brightness, "choices": choices, "call_arguments": CALL, "out": tmp_path}
    said: list[str] = []
    front = accel.tune(pipes, PROMPTS, tell=said.append, **asked)
    assert [one.choice.label for one in front.results] == ["base", "slower, and by itself"]
    assert "one window holds all of it" in front.left_out["idle"]
    assert front.left_out["slower"] == "it is no faster than base"
    assert "left out, slower: it is no faster than base" in str(front)
    assert [text for text in said if "idle" in text or "slower," in text] == [
        "idle, prompt 1 of 2",
        "slower, prompt 1 of 2",
        "slower, and by itself, prompt 1 of 2",
        "slower, and by itself, prompt 2 of 2",
    ]
    said.clear()
    assert accel.tune(pipes, PROMPTS, tell=said.append, **asked).left_out == front.left_out
    assert not said, "what was left out stays so when the same call goes on"


def test_a_route_measures_early_errors_itself(pipes: list[Any], found: tuple[ModelFront, Path]) -> None:
    """Of two prompts nothing is promised, so they go to the base, as they are."""
    front, _ = found
    route = Route.learnt(front)
    few = route.early(CHOICES[2], PROMPTS[0], 0)
    assert 0.0 < few < 1.0 and route.early(CHOICES[0], PROMPTS[0], 0) == 0.0
    routed = route(PROMPTS[0], seed=5)
    assert routed.choice.label == "base"
    with without_progress_bars(pipes[0]):
        generator = torch.Generator("cpu").manual_seed(5)
        plain = pipes[0](PROMPTS[0], generator=generator, num_inference_steps=4, **CALL)
    assert np.array_equal(to_frames(routed.output), to_frames(plain))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"verify": None}, "tune over several models needs one or more of them, and verify="),
        ({"prompts": []}, "prompts must be a list"),
        ({"choices": [CHOICES[0], CHOICES[0]]}, "Two choices have the same label"),
    ],
)
def test_bad_input_is_one_sentence(pipes: list[Any], asked: dict[str, Any], sentence: str) -> None:
    given = {"prompts": PROMPTS, "verify": brightness, "call_arguments": CALL, "progress": False, **asked}
    with pytest.raises(ValueError, match=sentence):
        accel.tune(pipes, **given)
