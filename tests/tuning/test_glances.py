"""What a short run tells of a method before the search: whether it acts, and what it makes of the time of a call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accel import pocket
from accel.anatomy import inspect
from accel.attention import LowPrecision
from accel.precision import BFloat16, Float32, Int8Weights
from accel.recipe import Recipe
from accel.tuning.clip_split import PromptSeed
from accel.tuning.evidence import TUNED, hint
from accel.tuning.narrowing import acting
from accel.tuning.space import settings, space_of
from accel.tuning.surrogate import TimeFactors
from accel.tuning.trials import GLANCE_STEPS, Glance, TrialRunner
from tests import shallow
from tests.tiny.case import quiet

WEIGHTS = Int8Weights(min_tokens=2)


class Working:
    """Processor time that passes with the work: a second for each evaluation, four to decode."""

    def __init__(self, pipe: Any, patch: pytest.MonkeyPatch) -> None:
        self.now, self.evaluations = 1.0, 0
        pipe.transformer.register_forward_pre_hook(self._evaluate)
        pipe.vae.second_stage.register_forward_pre_hook(lambda *_: self._pass(4.0))
        for module in ("accel.tuning.trials", "accel.pipeline_call"):
            patch.setattr(f"{module}.time", self)

    def perf_counter(self) -> float:
        return self.now

    process_time = monotonic = perf_counter

    def _evaluate(self, *_: Any) -> None:
        self.evaluations += 1
        self._pass(1.0)

    def _pass(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def pipe() -> Any:
    return quiet(shallow.load("video"))


def runner(pipe: Any, folder: Path) -> TrialRunner:
    shots = [PromptSeed(prompt, 0) for prompt in pocket.prompts(1, 1)]
    call = {"num_frames": 1, "height": 32, "width": 32, "output_type": "np"}
    return TrialRunner(pipe, shots, 8, call, {}, folder, {})


def test_a_glance_tells_of_the_steps_and_of_all_around_them(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, lab = Working(pipe, monkeypatch), runner(pipe, tmp_path)
    told = lab.glance(Recipe(precision=WEIGHTS))
    assert told.engaged and (told.denoise, told.around) == pytest.approx((1.0, 1.0))
    assert clock.evaluations == 3 * 2 * GLANCE_STEPS, "without it, with it for the first time, and again with the clock"


def test_a_glance_is_made_once(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuning that goes on in another process believes the same, so that it asks for the same runs."""
    clock = Working(pipe, monkeypatch)
    found = runner(pipe, tmp_path).glance(Recipe(precision=WEIGHTS))
    before = clock.evaluations
    assert runner(pipe, tmp_path).glance(Recipe(precision=WEIGHTS)) == found
    assert clock.evaluations == before


class Glancing(TrialRunner):
    """Knows what glances tell."""

    def __init__(self, told: dict[str, Glance]) -> None:
        self._told = told

    def glance(self, recipe: Recipe) -> Glance:
        (method,) = recipe.methods().values()
        return self._told.get(str(method), Glance("", False, "too few tokens"))


def test_what_acts_is_tried_by_what_it_saves_and_the_rest_is_left_out(pipe: Any) -> None:
    told = {
        str(BFloat16(decoder="16 bits")): Glance("", True, "", denoise=0.4, around=0.3),
        str(LowPrecision()): Glance("", True, "", denoise=1.2, around=1.0),  # it may save later
    }
    space = space_of(inspect(pipe), None, 20, True, ("attention", "precision"), generic=False)
    space = replace(space, others={**space.others, "precision": tuple(settings("precision"))})
    found, factors = acting(space, Glancing(told), lambda text: None)
    assert found.others["precision"] == (BFloat16(decoder="16 bits"),)
    assert found.left_out[str(Float32())] == "too few tokens"
    assert factors["precision " + str(BFloat16(decoder="16 bits"))] == TimeFactors(0.4, 0.3)
    assert factors.get("attention " + str(LowPrecision()), TimeFactors()) == TimeFactors()


def test_precisions_to_choose_from_are_those_that_pay_somewhere() -> None:
    assert {BFloat16(), BFloat16(decoder="16 bits"), Float32()} <= set(settings("precision"))


@pytest.mark.parametrize(("text", "said"), [(0.5, "Text encoders take 25%"), (0.1, "")])
def test_words_that_are_worth_keeping_are_pointed_out(text: float, said: str) -> None:
    phases = {"text": text, "denoiser": 1.5, "decoder": 0.0, "rest": 0.0}
    assert hint({"phases": {TUNED: phases}}).startswith(said)
    assert hint({}) == "", "evidence of earlier versions"
