"""What accel promises for every denoising pipeline class of diffusers: nothing is lost by it, and nothing is left.

A dozen classes that are least like those of `tests.tiny.TINY` run always, all of them with `--slow`.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler

import accel
from accel import FixedInterval, Recipe
from accel.components import components_of, denoisers_of
from tests.accel.residue import raising_in_call
from tests.schedulers import FLOW
from tests.tiny import run
from tests.tiny.zoo import ALONE, NOT_BUILT, ZOO
from tests.tiny.zoo.inventory import denoising_classes

ALWAYS = (
    *("AuraFlowPipeline", "DDIMPipeline", "Flux2KleinModularPipeline", "IFPipeline", "KandinskyV22PriorPipeline"),
    *("LongCatAudioDiTPipeline", "LTXConditionPipeline", "StableAudioPipeline", "StableDiffusionXLPAGPipeline"),
)
NEVER = Recipe(cache=FixedInterval(1, warmup=1, final=0, min_steps=1))
INTERRUPTED = 4  # the step at which a callback does it: after one that was skipped
SPOILT = {
    "LTXI2VLongMultiPromptPipeline": "it hands a callback its latents, and takes what that returns for packed ones"
}
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


@pytest.mark.part(1)
@every_class
def test_a_cache_that_never_skips_changes_no_bit_and_leaves_nothing(name: str) -> None:
    pipe = pipeline(name)
    with accel.accelerate(pipe, NEVER) as session:
        output = run(pipe, ZOO[name])
    assert torch.equal(output.nan_to_num(), plain(name).nan_to_num())
    assert session.report().predicted == 0
    assert not traces(pipe)
    assert torch.equal(run(pipe, ZOO[name]).nan_to_num(), plain(name).nan_to_num())


@pytest.mark.part(3)
@every_class
def test_the_cache_skips_or_says_why(name: str) -> None:
    with accel.accelerate(pipeline(name), OFTEN) as session:
        run(pipeline(name), ZOO[name])
    cache, report = session.report().levers[0], session.report()
    assert cache.engaged == (report.predicted > 0)
    assert cache.engaged or "(" in cache.reason


@pytest.mark.part(1)
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


@pytest.mark.part(1)
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


@dataclass
class Reader:
    """A callback that keeps what it is given at each step, and may interrupt the pipeline at one."""

    interrupts: int | None = None
    heard: list[tuple[int, Any, dict[str, torch.Tensor]]] = field(default_factory=list)

    def __call__(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        read = {name: value.clone() for name, value in tensors.items()}
        self.heard.append((step, torch.as_tensor(timestep).tolist(), read))
        pipe._interrupt = step == self.interrupts
        return tensors

    def hears(self, name: str, recipe: Recipe) -> torch.Tensor:
        """The output of a run that it is told of."""
        with accel.accelerate(pipeline(name), recipe):
            return run(pipeline(name), ZOO[name], callback_on_step_end=self)


def skip_without_callbacks(name: str) -> None:
    if "callback_on_step_end" not in inspect.signature(denoising_classes()[name].__call__).parameters:
        pytest.skip("its call takes no callback")
    if name in SPOILT:
        pytest.skip(SPOILT[name])


def same(one: Reader, other: Reader) -> bool:
    """Whether both have read the same bits at the same steps."""
    assert [heard[:2] for heard in one.heard] == [heard[:2] for heard in other.heard]
    return all(
        mine.keys() == theirs.keys()
        and all(torch.equal(mine[key].nan_to_num(), theirs[key].nan_to_num()) for key in mine)
        for (*_, mine), (*_, theirs) in zip(one.heard, other.heard, strict=True)
    )


@pytest.mark.part(1)
@every_class
def test_a_callback_reads_what_it_would_without(name: str) -> None:
    skip_without_callbacks(name)
    alone, never, often = Reader(), Reader(), Reader()
    expected = run(pipeline(name), ZOO[name], callback_on_step_end=alone)
    assert torch.equal(never.hears(name, NEVER).nan_to_num(), expected.nan_to_num())
    assert alone.heard and same(alone, never)
    assert torch.equal(often.hears(name, OFTEN).nan_to_num(), cached(name).nan_to_num())
    assert [heard[:2] for heard in often.heard] == [heard[:2] for heard in alone.heard]


@pytest.mark.part(1)
@every_class
def test_a_callback_interrupts_as_it_would_without(name: str) -> None:
    skip_without_callbacks(name)
    alone, never, often = Reader(INTERRUPTED), Reader(INTERRUPTED), Reader(INTERRUPTED)
    expected = run(pipeline(name), ZOO[name], callback_on_step_end=alone)
    assert torch.equal(never.hears(name, NEVER).nan_to_num(), expected.nan_to_num())
    assert same(alone, never)
    with accel.accelerate(pipeline(name), OFTEN):
        run(pipeline(name), ZOO[name], callback_on_step_end=often)
        assert torch.equal(run(pipeline(name), ZOO[name]).nan_to_num(), cached(name).nan_to_num())


@pytest.mark.slow  # test_clock.py has pipelines under other schedulers
@pytest.mark.part(1)
@every_class
def test_under_another_scheduler_nothing_is_lost_either(name: str) -> None:
    pipe = ZOO[name].build()
    before = with_another_scheduler(pipe, name)
    if before is None:
        pytest.skip("no scheduler stands in for its own")
    with accel.accelerate(pipe, NEVER):
        assert torch.equal(run(pipe, ZOO[name]).nan_to_num(), before.nan_to_num())
    with accel.accelerate(pipe, OFTEN) as session:
        run(pipe, ZOO[name])
    cache, report = session.report().levers[0], session.report()
    assert cache.engaged == (report.predicted > 0)
    assert cache.engaged or "(" in cache.reason
    assert torch.equal(run(pipe, ZOO[name]).nan_to_num(), before.nan_to_num())


def with_another_scheduler(pipe: Any, name: str) -> torch.Tensor | None:
    """The output under the first scheduler with which it runs, which it has from now on; None where there is none.

    Each class starts somewhere else in the list of those that its own scheduler names, so that all are met. Flow
    matching names none, though UniPC and Heun's method solve it.
    """
    own = getattr(pipe, "scheduler", None)
    kinds = [kind for kind in getattr(own, "compatibles", []) if kind is not type(own)]
    first = sorted(ZOO).index(name) % max(len(kinds), 1)
    others = [(kind, {}) for kind in (*kinds[first:], *kinds[:first])]
    if not kinds:
        others = [(UniPCMultistepScheduler, FLOW), (FlowMatchHeunDiscreteScheduler, {})]
    for kind, settings in others if own is not None else []:
        with suppress(Exception):  # whatever diffusers says to a scheduler that does not suit
            pipe.scheduler = kind.from_config(own.config, **settings)
            output = run(pipe, ZOO[name])
            if output.isfinite().all():
                return output
    return None
