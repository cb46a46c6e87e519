"""What a callback calls in the middle of a run is no part of the run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

import accel
from tests.accel.residue import traces
from tests.accel.test_threads import RECIPES, sharing
from tests.accel.witness import plain
from tests.tiny import TINY, run
from tests.tiny.case import quiet

STEPS = 6
AT = 2  # the step after which the preview is drawn
PREVIEW: dict[str, Any] = {"steps": 3, "seed": 1, "prompt": 1}

Draw = Callable[[], object]


class Object(PipelineCallback):  # type: ignore[misc]
    """As diffusers has them: its pipelines ask whether a callback is one, and then which tensors it wants."""

    tensor_inputs = ("latents",)

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw = draw

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: Any) -> Any:
        assert set(callback_kwargs) == {"latents"}
        if step_index == AT:
            self.draw()
        return callback_kwargs


def function(draw: Draw) -> Any:
    return Object(draw).callback_fn


def several(draw: Draw) -> Any:
    return MultiPipelineCallbacks([Object(lambda: None), Object(draw)])


@cache
def alone(recipe: str, name: str = "wan") -> tuple[torch.Tensor, str, torch.Tensor]:
    """The output and timeline of a run without a callback, and the output of the preview, both accelerated."""
    pipe = TINY[name].build()
    with accel.accelerate(pipe, RECIPES[recipe]) as session:
        output, timeline = run(pipe, TINY[name], steps=STEPS), session.report().timeline()
        return output, timeline, run(pipe, TINY[name], **PREVIEW)


@pytest.mark.part(2)
@pytest.mark.parametrize("accelerated", [False, True], ids=["plain", "accelerated"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_preview_over_the_same_weights_is_what_it_is_alone_and_so_is_the_run(recipe: str, accelerated: bool) -> None:
    (pipe, other), drawn = sharing(), []
    sessions = [accel.accelerate(each, RECIPES[recipe]) for each in ((pipe, other) if accelerated else (pipe,))]
    callback = function(lambda: drawn.append(run(other, TINY["wan"], **PREVIEW)))
    output, timeline, preview = alone(recipe)
    assert torch.equal(run(pipe, TINY["wan"], steps=STEPS, callback_on_step_end=callback), output)
    assert sessions[0].report().timeline() == timeline and not sessions[0].report().notes
    assert torch.equal(drawn[0], preview if accelerated else plain("wan", **PREVIEW))
    for session in sessions:
        session.restore()
    assert traces(pipe) == traces(other) == []


@pytest.mark.parametrize("form", [function, Object, several])
def test_every_form_of_a_callback_is_set_aside_and_stays_what_it_is(form: Callable[[Draw], Any]) -> None:
    (pipe, other), drawn = sharing(), []
    callback = form(lambda: drawn.append(run(other, TINY["wan"], **PREVIEW)))
    with accel.accelerate(pipe, RECIPES["boundary"]):
        given = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents"]}
        assert torch.equal(run(pipe, TINY["wan"], steps=STEPS, **given), alone("boundary")[0])
    assert torch.equal(drawn[0], plain("wan", **PREVIEW))
    for each in (callback, *getattr(callback, "callbacks", ())):
        assert "callback_fn" not in getattr(each, "__dict__", {})


def test_a_callback_that_fails_leaves_nothing_behind() -> None:
    pipe = TINY["wan"].build()

    def fail() -> None:
        raise InterruptedError

    callback = Object(fail)
    with accel.accelerate(pipe, RECIPES["boundary"]):
        with pytest.raises(InterruptedError):
            run(pipe, TINY["wan"], steps=STEPS, callback_on_step_end=callback)
        assert "callback_fn" not in vars(callback)
        assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), alone("boundary")[0])


def test_a_session_restored_in_a_callback_is_gone() -> None:
    pipe = TINY["wan"].build()
    session = accel.accelerate(pipe, RECIPES["boundary"])
    run(pipe, TINY["wan"], steps=STEPS, callback_on_step_end=function(session.restore))
    assert traces(pipe) == []
    assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), plain("wan", steps=STEPS))


# The very same pipeline, which has one scheduler: diffusers' run in progress is lost, with accel or without it.


def test_a_pipeline_that_is_called_from_its_own_callback_fails_as_without_us_and_is_told_why() -> None:
    pipe = TINY["wan"].build()
    callback = function(lambda: run(pipe, TINY["wan"], **PREVIEW))
    with pytest.raises(AssertionError) as usual:  # of diffusers, which counts steps beyond the preview's
        run(pipe, TINY["wan"], steps=STEPS, callback_on_step_end=callback)
    with accel.accelerate(pipe, RECIPES["boundary"]):
        with pytest.raises(AssertionError) as ours:
            run(pipe, TINY["wan"], steps=STEPS, callback_on_step_end=callback)
        assert str(ours.value) == str(usual.value)
        assert "called again from its own callback" in ours.value.__notes__[0]
        assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), alone("boundary")[0])


def test_where_it_does_not_fail_each_call_has_its_own_levers_and_the_report_says_so() -> None:
    pipe, drawn = TINY["sd"].build(), []
    with accel.accelerate(pipe, RECIPES["boundary"]) as session:
        callback = function(lambda: drawn.append(run(pipe, TINY["sd"], **PREVIEW)))
        run(pipe, TINY["sd"], steps=STEPS, callback_on_step_end=callback)
        report = session.report()
    assert torch.equal(drawn[0], alone("boundary", "sd")[2])
    assert len(report.calls) == STEPS + 1, "those of the outer call alone; PNDM makes one more than it is asked for"
    assert "called again from its own callback" in str(report)


# Another pipeline with the run's own scheduler, which starts that anew too.


def with_one_scheduler(name: str) -> list[Any]:
    pipe = TINY[name].build()
    return [pipe, quiet(type(pipe)(**pipe.components))]


@pytest.mark.parametrize("accelerated", [False, True], ids=["plain", "accelerated"])
def test_a_preview_with_the_scheduler_of_the_run_is_noted(accelerated: bool) -> None:
    pipe, other = with_one_scheduler("sd")
    with accel.accelerate(pipe, RECIPES["boundary"]) as session:
        with accel.accelerate(other, RECIPES["boundary"]) if accelerated else nullcontext():
            callback = function(lambda: run(other, TINY["sd"], **PREVIEW))
            run(pipe, TINY["sd"], steps=STEPS, callback_on_step_end=callback)
        told = [note for note in session.report().notes if "A callback has used the scheduler" in note]
        assert len(told) == 1
        run(pipe, TINY["sd"], steps=STEPS)
        assert "callback" not in str(session.report())


def test_where_diffusers_fails_after_such_a_preview_the_exception_says_why() -> None:
    pipe, other = with_one_scheduler("wan")
    with accel.accelerate(pipe, RECIPES["boundary"]), pytest.raises(AssertionError) as failed:
        callback = function(lambda: run(other, TINY["wan"], **PREVIEW))
        run(pipe, TINY["wan"], steps=STEPS, callback_on_step_end=callback)
    assert "A callback has used the scheduler" in failed.value.__notes__[0]


def test_a_callback_that_puts_the_scheduler_back_disturbs_nothing() -> None:
    pipe, other = with_one_scheduler("sd")
    scheduler = pipe.scheduler

    def draw() -> None:
        before = copy.deepcopy(vars(copy.copy(scheduler)))
        run(other, TINY["sd"], **PREVIEW)
        vars(scheduler).update(before)

    with accel.accelerate(pipe, RECIPES["boundary"]) as session:
        output = run(pipe, TINY["sd"], steps=STEPS, callback_on_step_end=function(draw))
        assert torch.equal(output, alone("boundary", "sd")[0]) and not session.report().notes
