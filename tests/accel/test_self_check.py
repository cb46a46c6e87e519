"""accel.check: one run without and one with, in a line; what it says is what was measured, and nothing is left behind.

Tiny pipelines of random weights show what is said and left alone; promises are kept and broken on a pocket model.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch

import accel
from accel import pocket
from accel.caching import FixedInterval, OptimalSchedule
from accel.cli import main
from accel.measure.runner import Runner
from accel.patch import session_of
from accel.presets import PRESETS
from accel.recipe import Recipe
from accel.self_check import Check
from tests.accel.residue import of_denoisers
from tests.tiny import TINY
from tests.tiny.case import quiet

HALF = Recipe(cache=FixedInterval(2, min_steps=4), name="half")
LYING = Recipe(cache=OptimalSchedule(0.1, fewest=2), name="balanced")
"""Skips nearly all, and calls itself what promises 30 dB."""


def tiny(name: str, **overrides: Any) -> tuple[Any, dict[str, Any]]:
    """A pipeline without progress bar, and arguments of its call that give a small picture or clip."""
    pipe = quiet(TINY[name].build())
    return pipe, {**TINY[name].arguments(pipe), "num_inference_steps": 8, **overrides}


STILL = {"num_frames": 1, "height": 32, "width": 32}
"""Most of what a check of a tiny video takes is its decoder."""


@pytest.fixture(scope="module", autouse=True)
def timed_by_work() -> Iterator[None]:
    """A call takes a second for each evaluation, so that what else the machine does has no check measure again."""
    own = Runner._call

    def timed(self: Runner, prompt: str, seed: int, steps: int) -> tuple[Any, float, float]:
        output, *_ = own(self, prompt, seed, steps)
        seconds = float(session_of(self.pipe).report().computed)
        return output, seconds, seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_call", timed)
        yield


@pytest.fixture(scope="module")
def checks(timed_by_work: None) -> list[Check]:
    """What a preset and a recipe that lies give on a trained model."""
    pipe = pocket.load("image")
    return accel.check(pipe, pocket.prompts(1, 0)[0], ["balanced", ("lying", LYING), "turbo"], num_inference_steps=28)


def test_a_promise_is_kept_on_a_trained_model(checks: list[Check]) -> None:
    found = checks[0]
    assert (found.label, found.promise, found.kept) == ("balanced", 30.0, True)
    assert found.psnr >= 30.0
    assert str(found).startswith("balanced: ")
    assert str(found).endswith(f" {found.psnr:.0f} dB; promise kept")


def test_a_recipe_that_lies_is_found_out(checks: list[Check]) -> None:
    found = checks[1]
    assert (found.promise, found.kept) == (30.0, False)
    assert found.psnr < 29.5
    assert found.computed < 0.3
    assert str(found).endswith("the promise, about 30 dB, is not kept: try lossless")


def test_where_no_psnr_is_promised_none_is_judged(checks: list[Check]) -> None:
    assert (checks[2].promise, checks[2].kept) == (None, None)
    assert str(checks[2]).endswith("it promises no PSNR: look at the picture")


def test_a_check_is_plain_data(checks: list[Check]) -> None:
    data = json.loads(json.dumps(checks[0].to_dict()))
    skipped = round(28 * (1.0 - data["computed"]))
    assert 5 <= skipped <= 12
    (reason,) = data["reasons"]
    assert reason.startswith(f"cache: {skipped} of 28 calls predicted")


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sd", "flux_img2img", "svd"])
def test_videos_pictures_and_pipelines_that_start_from_an_image(name: str) -> None:
    pipe, arguments = tiny(name)
    found = accel.check(pipe, None, HALF, **arguments)
    assert 0.4 < found.computed < 0.9  # from an image on there are fewer steps to skip
    assert found.psnr > 0
    assert "calls predicted" in found.reasons[0]


def test_a_picture_that_is_hardly_changed_is_warmed_up_with_more_than_no_steps() -> None:
    pipe, arguments = tiny("flux_img2img", strength=0.2)
    assert accel.check(pipe, None, HALF, **arguments).psnr == 100.0


def test_what_skips_nothing_says_so_and_why() -> None:
    pipe, arguments = tiny("wan", num_inference_steps=4, **STILL)
    found = accel.check(pipe, None, "balanced", **arguments)
    assert (found.psnr, found.computed) == (100.0, 1.0)
    assert f"{found.label}: not accelerated: 0 of 8 calls predicted (" in str(found)


def test_no_recipe_is_the_default_one_and_no_other_thing_is_a_recipe() -> None:
    pipe, arguments = tiny("wan", num_inference_steps=2, **STILL)
    assert accel.check(pipe, None, None, **arguments).label == "balanced"
    with pytest.raises(TypeError, match="not None"):
        accel.check(pipe, None, [None], **arguments)


def test_where_a_preset_promises_nothing_the_line_says_why() -> None:
    pipe, arguments = tiny("sd", num_inference_steps=8)
    pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caution that every acceleration gives there
        found = accel.check(pipe, None, Recipe(cache=HALF.cache, name="fast"), **arguments)
    assert (found.promise, found.kept) == (24.0, None)
    assert "it promises nothing here, because under DDPMScheduler" in str(found)


def test_processor_time_is_told_where_the_machine_was_busy() -> None:
    steady = Check("fast", 2.0, 2.1, 40.0, 0.5, 24.0, True, "promise kept")
    assert str(steady) == "fast: 2.0x, 40 dB; promise kept"
    busy = replace(steady, speed=3.0, steady=False)
    assert str(busy) == "fast: 3.0x on a busy machine, 2.1x of processor time, 40 dB; promise kept"


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("times", "speed", "steady"),
    [
        # unaccelerated and accelerated by turns, as they are measured: the second round begins with the latter
        ([1.5, 1.0], 1.5, True),
        ([9.0, 1.0, 1.5, 1.0, 1.0, 1.5], 1.5, True),  # nine times as fast with most computed? Measured again
        ([9.0, 1.0, 9.0, 1.0, 1.0, 1.5], 5.25, False),  # still no two alike
    ],
)
def test_times_that_contradict_what_was_computed_are_measured_again(
    monkeypatch: pytest.MonkeyPatch, times: list[float], speed: float, steady: bool
) -> None:
    pipe, arguments = tiny("wan", **STILL)
    taken, own = iter(times), Runner._call

    def timed(self: Runner, prompt: str, seed: int, steps: int) -> tuple[Any, float, float]:
        output, *_ = own(self, prompt, seed, steps)
        seconds = next(taken) if steps == 8 else 1.0  # warm-ups are shorter
        return output, seconds, seconds

    monkeypatch.setattr(Runner, "_call", timed)
    found = accel.check(pipe, None, HALF, **arguments)
    assert next(taken, None) is None
    assert found.speed == pytest.approx(speed)
    assert found.steady == steady


def test_promises_are_judged_in_the_decibels_that_are_told() -> None:
    assert PRESETS["fast"].promise == "about 24 dB"
    assert [PRESETS["fast"].kept(psnr) for psnr in (23.4, 23.6, 60.0)] == [False, True, True]
    assert PRESETS["turbo"].kept(5.0) is None


@pytest.mark.part(1)
@pytest.mark.parametrize("accelerated", [False, True])
def test_nothing_is_left_on_the_pipeline(accelerated: bool) -> None:
    pipe, arguments = tiny("wan", num_inference_steps=4, **STILL)
    pipe(**arguments)  # a first call of its own leaves things on it too
    session = accel.accelerate(pipe, HALF) if accelerated else None
    before = of_denoisers(pipe)
    accel.check(pipe, None, [HALF, ("other", Recipe())], **arguments)
    assert session_of(pipe) is session
    assert accelerated or of_denoisers(pipe) == before


@pytest.mark.part(1)
@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_nor_after_an_exception(failure: BaseException) -> None:
    pipe, arguments = tiny("wan", **STILL)
    session = accel.accelerate(pipe, HALF)

    def fail(*_: Any) -> dict[str, Any]:
        raise failure

    with pytest.raises(type(failure)):
        accel.check(pipe, None, HALF, callback_on_step_end=fail, **arguments)
    assert session_of(pipe) is session
    pipe(**arguments)
    assert session.report().predicted > 0


def test_an_output_that_is_no_picture_is_said_to_be_incomparable_before_the_runs() -> None:
    pipe, arguments = tiny("wan", output_type="latent")
    with pytest.raises((TypeError, ValueError), match="output of WanPipeline cannot be compared: "):
        accel.check(pipe, None, HALF, **arguments)


@pytest.mark.part(3)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": "a corgi"}, "takes no prompt in this call"),  # it has the embeddings
        ({"generator": torch.Generator()}, "give seed=0"),
        ({"colour": "red"}, "no argument called colour"),
        ({"num_inference_steps": 0}, "steps must be"),
        ({"recipe": "quick"}, "no preset or recipe file 'quick'"),
        ({"recipe": []}, "recipes must be a list"),
    ],
)
def test_bad_input_is_one_sentence(given: dict[str, Any], words: str) -> None:
    pipe, arguments = tiny("wan", **STILL)
    with pytest.raises((TypeError, ValueError), match=words):
        accel.check(pipe, **{**arguments, **given})


@pytest.mark.slow  # only one class does
def test_a_pipeline_that_draws_from_the_global_state_too_is_compared_with_itself() -> None:
    pipe, arguments = tiny("sd3_controlnet")
    assert accel.check(pipe, None, Recipe(), **arguments).psnr == 100.0


def test_the_command_checks_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "pocket:image", "--check", "fast", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "UNet2DConditionModel" in printed
    assert "\nfast: " in printed


def test_the_command_asks_for_a_prompt_before_it_loads_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "some/model", "--check"]) == 2
    assert "which prompt?" in capsys.readouterr().err
