"""`with accel.calibrating(pipe): pipe(...)`: the user's own calls are recorded, and nothing of theirs is lost."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

import accel
from accel import Calibration, OptimalSchedule, calibrate, calibrating
from accel.anatomy import inspect
from accel.caching.calibration.files import to_json
from accel.patch import session_of
from tests.accel.residue import traces
from tests.accel.witness import pipeline, plain
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run


def toy() -> ToyPipeline:
    return ToyPipeline(lambda latents, sigma: torch.full_like(latents, 3.0 - 2.0 * sigma + sigma**2))


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sd", "wan_two_experts", "flux"])
def test_one_ordinary_call_measures_what_calibrate_measures_and_returns_what_it_always_does(name: str) -> None:
    pipe = pipeline(name)
    with calibrating(pipe) as calibration:
        output = run(pipe, TINY[name])
    assert torch.equal(output, plain(name))
    told = {"guidance_scale": calibration.key.guidance}
    same = calibrate(pipe, ["x"], generate=lambda pipe, *_: run(pipe, TINY[name]), layer_lags=0, **told)
    assert json.loads(to_json(calibration))["tables"] == json.loads(to_json(same))["tables"]
    assert traces(pipe) == []


def test_it_saves_and_loads_as_any_calibration_does_and_holds_no_prompt(tmp_path: Path) -> None:
    pipe = toy()
    with calibrating(pipe) as calibration:
        pipe("the secret words", num_inference_steps=12)
    calibration.save(tmp_path / "calibration.json")
    text = (tmp_path / "calibration.json").read_text()
    assert to_json(Calibration.load(tmp_path / "calibration.json")) == text and "secret" not in text
    assert calibration.steps == 12 and calibration.key.arguments == {"num_inference_steps": 12}


def test_several_calls_are_averaged_in_threads_too() -> None:
    pipe = TINY["wan"].build()
    with calibrating(pipe) as calibration:
        run(pipe, TINY["wan"], seed=0, prompt=0)
        other = threading.Thread(target=run, args=(pipe, TINY["wan"]), kwargs={"seed": 1, "prompt": 1})
        other.start()
        other.join()
    assert calibration.key.prompts == len(calibration.tables[0].runs) == 2


def test_the_users_session_is_suspended_and_given_back_the_same() -> None:
    pipe = toy()
    with accel.accelerate(pipe, cache=OptimalSchedule(0.5)) as session:
        with calibrating(pipe):
            before = pipe.transformer.calls
            pipe(num_inference_steps=12)
            assert pipe.transformer.calls - before == 12
        assert session_of(pipe) is session
        with pytest.raises(KeyError), calibrating(pipe):
            raise KeyError
        assert session_of(pipe) is session
        pipe(num_inference_steps=12)
        assert session.report().predicted == 6


def test_inside_of_its_block_it_says_that_it_is_not_complete(tmp_path: Path) -> None:
    pipe = toy()
    with calibrating(pipe) as calibration, pytest.raises(ValueError, match="complete only when its `with` block"):
        calibration.save(tmp_path / "calibration.json")
    assert not list(tmp_path.iterdir())


def no_call(pipe: Any) -> None:
    pass


def too_short(pipe: Any) -> None:
    pipe(num_inference_steps=1)


def stopped(pipe: Any) -> None:
    pipe.scheduler.set_timesteps(12)
    latents = torch.ones(pipe.shape)
    for timestep in pipe.scheduler.timesteps[:5]:
        prediction = pipe.transformer(latents, timestep)[0]
        latents = pipe.scheduler.step(prediction, timestep, latents, return_dict=False)[0]


class Stoppable(ToyPipeline):
    """Calls may stop early, as diffusers' do where `pipe._interrupt` is set."""

    def __call__(self, *args: Any, stop: bool = False, **options: Any) -> Any:
        return stopped(self) if stop else super().__call__(*args, **options)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (no_call, "no call of this pipeline came to a denoising step"),
        (too_short, "the runs had fewer than two steps"),
        (lambda pipe: pipe(stop=True), "the run was interrupted after 5 of 12 steps"),
    ],
)
def test_where_nothing_can_be_measured_it_warns_and_says_so_when_asked(call: Any, sentence: str) -> None:
    pipe = Stoppable(lambda latents, sigma: torch.full_like(latents, sigma))
    with pytest.warns(UserWarning, match=sentence), calibrating(pipe) as calibration:
        call(pipe)
    with pytest.raises(ValueError, match=sentence):
        print(calibration)
    assert sentence in repr(calibration)  # which a debugger asks
    with pytest.raises(ValueError, match=sentence):
        accel.accelerate(pipe, calibration=calibration)
    assert session_of(pipe) is None and traces(pipe) == []


def test_an_interrupted_call_is_left_out_and_the_complete_ones_count(recwarn: pytest.WarningsRecorder) -> None:
    pipe = Stoppable(lambda latents, sigma: torch.full_like(latents, sigma))
    with pytest.raises(KeyboardInterrupt), calibrating(pipe) as calibration:
        pipe(num_inference_steps=12)
        pipe(stop=True)
        raise KeyboardInterrupt
    assert calibration.key.prompts == 1 and "1 recorded parts of runs were interrupted" in str(calibration)
    assert not recwarn.list


def test_calls_at_another_guidance_scale_are_left_out() -> None:
    class Guided(ToyPipeline):
        def __call__(self, *args: Any, guidance_scale: float = 1.0, **options: Any) -> torch.Tensor:
            return super().__call__(*args, **options)

    pipe = Guided(lambda latents, sigma: torch.full_like(latents, sigma))
    with calibrating(pipe) as calibration:
        pipe(guidance_scale=4.0)
        pipe(guidance_scale=7.0)
    assert calibration.key.guidance == 4.0 and calibration.key.prompts == 1
    assert "had not guidance 4.0: left out" in str(calibration)


def another_scheduler(pipe: Any) -> None:
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()


def another_setting(pipe: Any) -> None:
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)


def another_denoiser(pipe: Any) -> None:
    pipe.transformer = toy().transformer
    pipe.transformer.more = torch.nn.Linear(4, 4)


EXCHANGES = [another_scheduler, another_setting, another_denoiser]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_it_belongs_to_the_parts_that_the_run_had_whenever_they_were_exchanged(exchange: Any) -> None:
    """In front of the block, in it, or in it and back again."""
    before, within, back = toy(), toy(), toy()
    exchange(before)
    with calibrating(before) as expected:
        before()
    with calibrating(within) as calibration:
        exchange(within)
        within()
    with calibrating(back) as returned:
        own = {**back.components}
        exchange(back)
        back()
        vars(back).update(own)
    assert to_json(calibration) == to_json(expected) == to_json(returned)
    assert calibration.misfit(inspect(within)) == expected.misfit(inspect(within))


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_calls_with_parts_that_were_exchanged_meanwhile_are_left_out(exchange: Any) -> None:
    pipe, alone = toy(), toy()
    with calibrating(pipe) as calibration:
        pipe()
        exchange(pipe)
        pipe()
    with calibrating(alone) as expected:
        alone()
    assert json.loads(to_json(calibration)) | {"notes": []} == json.loads(to_json(expected)) | {"notes": []}
    assert "1 recorded parts of runs had another scheduler, settings or denoiser: left out" in str(calibration)


def test_what_is_no_pipeline_is_refused_before_the_block() -> None:
    with pytest.raises(TypeError, match="expects a diffusers pipeline"), calibrating(3):
        pytest.fail("the block ran")
