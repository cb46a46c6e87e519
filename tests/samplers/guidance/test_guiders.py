"""Pipelines whose guidance is an object of its own: every method saves its passes, and no run hears of the last."""

from __future__ import annotations

import copy
import math
from functools import cache, partial
from typing import Any

import pytest
import torch
from diffusers import ClassifierFreeGuidance, SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig

import accel
from accel import AdaptiveGuidance, GuidanceDelta, GuidanceInterval, LinearAG
from accel.method import Method
from accel.samplers import calibrate_linear
from tests import tiny as tiny_pipelines
from tests.accel.residue import raising_in_call, snapshot, traces
from tests.samplers.guidance.reference import Rule, _TwoCalls, cut
from tests.tiny.guiders import GUIDERS

STEPS = 6
run = partial(tiny_pipelines.run, steps=STEPS)
every_pipeline = pytest.mark.parametrize("name", GUIDERS)
HALF = GuidanceInterval(low=0.5)
SAVING: dict[str, Any] = {
    "interval": HALF,
    "adaptive": AdaptiveGuidance(-1.0, start=0.5, rest="conditional"),
    "adaptive, then delta": AdaptiveGuidance(-1.0, start=0.25, delta=GuidanceDelta(math.inf, every=3)),
    "delta": GuidanceDelta(math.inf, every=3),
}
NEVER: dict[str, Any] = {
    "interval": GuidanceInterval(low=0.0),
    "adaptive": AdaptiveGuidance(2.0),
    "delta": GuidanceDelta(growth=1.0),
}


@cache
def pipeline(name: str) -> Any:
    return GUIDERS[name].build()


@cache
def plain(name: str) -> torch.Tensor:
    return run(GUIDERS[name].build(), GUIDERS[name])


def accelerated(name: str, method: Any, pipe: Any = None, steps: int = STEPS) -> tuple[torch.Tensor, accel.Report]:
    pipe = pipeline(name) if pipe is None else pipe
    with accel.accelerate(pipe, accel.Recipe(guidance=method)) as session:
        return run(pipe, GUIDERS[name], steps=steps), session.report()


def by_rule(name: str, rule: Rule) -> torch.Tensor:
    pipe = GUIDERS[name].build()
    pipe.transformer.register_forward_hook(_TwoCalls(pipe, rule), with_kwargs=True)
    return run(pipe, GUIDERS[name])


def test_every_guidance_method_is_tried() -> None:
    tried = {type(method).__name__ for method in SAVING.values()} | {"LinearAG"}
    assert tried == set(Method.registry["guidance"])


@pytest.mark.part(1)
@every_pipeline
@pytest.mark.parametrize("method", NEVER)
def test_where_nothing_is_left_out_the_output_is_bit_identical(name: str, method: str) -> None:
    output, report = accelerated(name, NEVER[method])
    assert torch.equal(output, plain(name))
    assert report.timeline() == {"pred_cond": "██████", "pred_uncond": "██████"}


@pytest.mark.part(1)
@every_pipeline
@pytest.mark.parametrize("method", SAVING)
def test_passes_are_saved_and_the_next_call_does_the_same(name: str, method: str) -> None:
    calls: list[int] = []
    handle = pipeline(name).transformer.proj_out.register_forward_hook(lambda *_: calls.append(1))
    try:
        with accel.accelerate(pipeline(name), accel.Recipe(guidance=SAVING[method])) as session:
            first, made = run(pipeline(name), GUIDERS[name]), len(calls)
            second = run(pipeline(name), GUIDERS[name])
    finally:
        handle.remove()
    assert made <= 10 and len(calls) == 2 * made
    assert torch.equal(first, second) and torch.isfinite(first).all() and not torch.equal(first, plain(name))
    assert session.report().levers[0].engaged


@pytest.mark.part(1)
@every_pipeline
def test_dropped_steps_equal_the_conditional_answer_in_both_places(name: str) -> None:
    assert torch.equal(accelerated(name, HALF)[0], by_rule(name, cut(3)))


def test_without_momentum_that_is_the_pipeline_whose_guider_stops() -> None:
    pipe = GUIDERS["hunyuan_video_15"].build()
    pipe.guider = pipe.guider.new(stop=0.5)
    assert torch.equal(accelerated("hunyuan_video_15", HALF)[0], run(pipe, GUIDERS["hunyuan_video_15"]))


@pytest.mark.part(1)
@every_pipeline
def test_linear_is_calibrated_there(name: str) -> None:
    generate = lambda pipe, _: run(pipe, GUIDERS[name], steps=8)  # noqa: E731
    linear = calibrate_linear(pipeline(name), ["ignored"], every=2, start=0.4, generate=generate)
    assert isinstance(linear, LinearAG)
    assert accelerated(name, linear, steps=8)[1].levers[0].reason.startswith("2 of 8 unconditional passes left out")


@pytest.mark.part(1)
@pytest.mark.parametrize("method", [None, HALF], ids=["no lever", "interval"])
def test_a_guider_that_stops_can_be_called_again(method: Any) -> None:
    """diffusers alone keeps the end of the last run in the guider, encodes no negative prompt and fails."""
    pipe, tiny = GUIDERS["hunyuan_video_15"].build(), GUIDERS["hunyuan_video_15"]
    pipe.guider = pipe.guider.new(stop=0.25)
    arguments = tiny.arguments(pipe)
    words = {name: arguments.pop(name) for name in list(arguments) if name.startswith("negative_prompt_embeds")}
    assert words
    first = run(pipe, tiny)
    assert pipe.guider.num_conditions == 1  # this is what the next call would go by
    with accel.accelerate(pipe, accel.Recipe(guidance=method)):
        seen: list[int] = []
        encode = pipe.encode_prompt

        def encoding(*args: Any, **kwargs: Any) -> Any:
            seen.append(1)
            return encode(*args, **kwargs)

        pipe.encode_prompt = encoding
        second = run(pipe, tiny)
        del pipe.encode_prompt
    assert len(seen) == 2  # the prompt and the negative prompt
    assert torch.equal(first, second)


def test_a_guider_with_a_third_pass_keeps_it() -> None:
    """Skip-layer guidance asks once more at some steps, with a layer of the model left out."""
    pipe, tiny = GUIDERS["hunyuan_video_15"].build(), GUIDERS["hunyuan_video_15"]
    layers = LayerSkipConfig(indices=[1], fqn="transformer_blocks", skip_attention=False, skip_ff=True)
    window = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    pipe.guider = SkipLayerGuidance(3.0, skip_layer_guidance_scale=1.0, skip_layer_config=layers, **window)
    with accel.accelerate(pipe, accel.Recipe(guidance=HALF)) as session:
        run(pipe, tiny)
    calls = {name: row.count("█") for name, row in session.report().timeline().items()}
    assert calls == {"pred_cond": 6, "pred_uncond": 3, "pred_cond_skip": 5}  # the guider begins after the first step


@pytest.mark.part(1)
@every_pipeline
def test_restore_gives_the_pipeline_back_also_after_an_exception(name: str) -> None:
    pipe, tiny = GUIDERS[name].build(), GUIDERS[name]
    run(pipe, tiny)
    before, guider, config = snapshot(pipe), pipe.guider, copy.deepcopy(dict(pipe.guider.config))
    with accel.accelerate(pipe, accel.Recipe(guidance=SAVING["delta"])):
        expected = run(pipe, tiny)
        handle = pipe.transformer.register_forward_pre_hook(raising_in_call(5))
        with pytest.raises(InterruptedError):
            run(pipe, tiny)
        handle.remove()
        assert torch.equal(run(pipe, tiny), expected)
    assert pipe.guider is guider and dict(guider.config) == config and traces(pipe) == []
    after = snapshot(pipe)
    assert {path for path in after if path.startswith("class") and after[path] != before[path]} == set()
    assert torch.equal(run(pipe, tiny), plain(name))


def test_a_guider_that_is_off_asks_for_one_pass() -> None:
    pipe, tiny = GUIDERS["hunyuan_video_15"].build(), GUIDERS["hunyuan_video_15"]
    pipe.guider = ClassifierFreeGuidance(guidance_scale=1.0)
    expected = run(pipe, tiny)
    output, report = accelerated("hunyuan_video_15", HALF, pipe)
    assert torch.equal(output, expected)
    assert report.levers[0].reason.startswith("no unconditional pass was seen")
