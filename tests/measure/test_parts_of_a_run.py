"""Where a call takes a part of its steps, as from a picture on, nobody measures a run of none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import accel
from accel.measure.call_arguments import fewest_steps_of
from accel.measure.metrics import psnr
from accel.measure.variants import equal_time_counts
from accel.tuning.clip_split import PromptSeed
from accel.tuning.trials import GLANCE_STEPS, TrialRunner
from tests.tiny.zoo import ZOO

HALF = accel.Recipe(cache=accel.FixedInterval(2, warmup=1, final=0, min_steps=1))


def called(name: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    pipe = ZOO[name].build()
    return pipe, ZOO[name].arguments(pipe) | more


def test_the_default_of_the_call_counts_where_nothing_is_given() -> None:
    pipe, arguments = called("StableDiffusionXLImg2ImgPipeline")
    del arguments["strength"]
    assert fewest_steps_of(pipe, arguments) == 4, "it is 0.3 there"
    assert fewest_steps_of(pipe, {"denoising_start": 0.8}) == 5


def test_a_count_for_equal_time_takes_a_step() -> None:
    rows = [SimpleNamespace(kind="recipe", label="fast", denoise_speedup=8.0)]
    assert [list(equal_time_counts(rows, steps, 4)) for steps in (8, 4)] == [[4], []]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"]
)
def test_a_count_that_takes_none_is_refused_in_a_sentence(name: str) -> None:
    pipe, arguments = called(name, strength=0.3)
    with pytest.raises(ValueError, match=r"Of 2 steps this call takes none.*ask for 4 or more in fewer_steps"):
        accel.compare(pipe, [HALF], (), (0,), steps=8, fewer_steps=[2], call_arguments=arguments, progress=False)


def test_a_pipeline_that_takes_some_whatever_its_strength_is_asked() -> None:
    pipe, arguments = called("FluxImg2ImgPipeline", strength=0.3)
    found = accel.compare(pipe, [HALF], (), (0,), steps=8, fewer_steps=[2], call_arguments=arguments, progress=False)
    assert found.rows[-1].label == "2 steps" and found.rows[-1].computed


def test_the_short_runs_of_the_tuner_take_a_step(tmp_path: Path) -> None:
    pipe, arguments = called("KolorsImg2ImgPipeline", strength=0.2, output_type="np")
    prompt = arguments.pop("prompt")
    shots, metrics = [PromptSeed(prompt, 0)], {"psnr": psnr}
    lab = TrialRunner(pipe, shots, 10, arguments, metrics, tmp_path, {})
    assert lab.fewest == 5 > GLANCE_STEPS
    lab.warm_up()
    assert lab.glance(HALF).reason and lab.trial(HALF, 0).computed
