"""What accel promises for every denoising pipeline class of diffusers: nothing is lost by it, and nothing is left.

A dozen classes that are least like those of `tests.tiny.TINY` run always, all of them with `--slow`.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import pytest
import torch

import accel
from accel import FixedInterval, Recipe
from accel.anatomy import components_of, denoisers_of
from tests.accel.residue import raising_in_call
from tests.tiny import run
from tests.tiny.zoo import ALONE, NOT_BUILT, ZOO
from tests.tiny.zoo.inventory import denoising_classes

ALWAYS = (
    *("AuraFlowPipeline", "DDIMPipeline", "Flux2KleinModularPipeline", "IFPipeline", "KandinskyV22PriorPipeline"),
    *("LongCatAudioDiTPipeline", "LTXConditionPipeline", "StableAudioPipeline", "StableDiffusionXLPAGPipeline"),
)
NEVER = Recipe(cache=FixedInterval(1, warmup=1, final=0, min_steps=1))
OFTEN = Recipe(cache=FixedInterval(3, warmup=2, final=1, min_steps=1))

every_class = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in sorted(ZOO)]
)


@cache
def pipeline(name: str) -> Any:
    return ZOO[name].build()


@cache
def plain(name: str) -> torch.Tensor:
    """The output of a pipeline that was never accelerated."""
    return run(ZOO[name].build(), ZOO[name])


@cache
def cached(name: str) -> torch.Tensor:
    with accel.accelerate(pipeline(name), OFTEN):
        return run(pipeline(name), ZOO[name])


def traces(pipe: Any) -> list[str]:
    """What of accel is left in the attributes of the pipeline's parts and of their modules."""
    parts = {"pipe": pipe, **components_of(pipe)}
    modules = {path: part for path, part in parts.items() if hasattr(part, "__dict__")}
    for name, module in denoisers_of(components_of(pipe)):
        modules |= {f"{name}.{path}": child for path, child in module.named_modules()}
    return [
        f"{path}.{key}"
        for path, part in modules.items()
        for key, value in vars(part).items()
        if type(value).__module__.startswith("accel")
    ]


def test_every_denoising_class_is_here_or_has_its_reason() -> None:
    assert {*ZOO} | {*NOT_BUILT} == {*denoising_classes()}
    assert not {*ZOO} & {*NOT_BUILT}


@pytest.mark.part(4)
@every_class
def test_a_cache_that_never_skips_changes_no_bit_and_leaves_nothing(name: str) -> None:
    pipe = pipeline(name)
    with accel.accelerate(pipe, NEVER) as session:
        output = run(pipe, ZOO[name])
    assert torch.equal(output.nan_to_num(), plain(name).nan_to_num())
    assert session.report().predicted == 0
    assert not traces(pipe)
    assert torch.equal(run(pipe, ZOO[name]).nan_to_num(), plain(name).nan_to_num())


@every_class
def test_the_cache_skips_or_says_why(name: str) -> None:
    with accel.accelerate(pipeline(name), OFTEN) as session:
        run(pipeline(name), ZOO[name])
    cache, report = session.report().levers[0], session.report()
    assert cache.engaged == (report.predicted > 0)
    assert cache.engaged or "(" in cache.reason


@pytest.mark.part(5)
@every_class
def test_an_interrupted_run_leaves_nothing_to_the_next(name: str) -> None:
    pipe = pipeline(name)
    denoiser = next(module for _, module in denoisers_of(components_of(pipe)))
    expected = cached(name)
    with accel.accelerate(pipe, OFTEN):
        hook = denoiser.register_forward_pre_hook(raising_in_call(3))
        with pytest.raises(InterruptedError):
            run(pipe, ZOO[name])
        hook.remove()
        assert torch.equal(run(pipe, ZOO[name]).nan_to_num(), expected.nan_to_num())
    assert torch.equal(run(pipe, ZOO[name]).nan_to_num(), plain(name).nan_to_num())


@pytest.mark.part(3)
@every_class
def test_a_batch_of_two_runs_as_it_does_without(name: str) -> None:
    if name in ALONE:
        pytest.skip(ALONE[name])
    pipe = pipeline(name)
    before = run(pipe, ZOO[name], batch=2)
    with accel.accelerate(pipe, NEVER):
        assert torch.equal(run(pipe, ZOO[name], batch=2).nan_to_num(), before.nan_to_num())
    with accel.accelerate(pipe, OFTEN) as session:
        assert run(pipe, ZOO[name], batch=2).shape == before.shape
    assert session.report().levers[0].reason


@every_class
def test_a_callback_hears_every_step_and_changes_nothing(name: str) -> None:
    if "callback_on_step_end" not in inspect.signature(denoising_classes()[name].__call__).parameters:
        pytest.skip("its call takes no callback")
    heard: list[int] = []

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        heard.append(step)
        return tensors

    with accel.accelerate(pipeline(name), OFTEN):
        output = run(pipeline(name), ZOO[name], callback_on_step_end=callback)
    assert torch.equal(output.nan_to_num(), cached(name).nan_to_num())
    assert heard == sorted(heard)
