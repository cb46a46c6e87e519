"""The clock is right with every kind of scheduler: which step, where in the timetable, how noisy, which stream."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

import accel
from accel import EasyCache, FixedInterval, LastOutput
from accel.clock import Clock
from accel.timetable import Timetable
from tests.accel.witness import witness
from tests.tiny import TINY, run

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.003, "beta_schedule": "scaled_linear"}
FLOW: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}

# Evaluations in a run of eight steps: multi-stage solvers ask the denoiser more often than they are asked for steps.
NOISE_SCHEDULERS = {
    "ddim": (DDIMScheduler(**BETAS, clip_sample=False), 8),
    "ddpm": (DDPMScheduler(**BETAS, clip_sample=False), 8),
    "euler": (EulerDiscreteScheduler(**BETAS), 8),
    "euler karras": (EulerDiscreteScheduler(**BETAS, use_karras_sigmas=True), 8),
    "euler ancestral": (EulerAncestralDiscreteScheduler(**BETAS), 8),
    "lms": (LMSDiscreteScheduler(**BETAS), 8),
    "dpm++ 2m": (DPMSolverMultistepScheduler(**BETAS), 8),
    "dpm++ single": (DPMSolverSinglestepScheduler(**BETAS), 8),
    "unipc": (UniPCMultistepScheduler(**BETAS), 8),
    "heun": (HeunDiscreteScheduler(**BETAS), 15),
    "kdpm2": (KDPM2DiscreteScheduler(**BETAS), 15),
    "pndm": (PNDMScheduler(**BETAS, skip_prk_steps=True), 9),
    "pndm with runge-kutta": (PNDMScheduler(**BETAS), 17),
    "lcm": (LCMScheduler(**BETAS), 8),
}
FLOW_SCHEDULERS = {
    "flow euler": (FlowMatchEulerDiscreteScheduler(shift=3.0), 8),
    "flow heun": (FlowMatchHeunDiscreteScheduler(shift=3.0), 15),
    "flow unipc": (UniPCMultistepScheduler(**FLOW), 8),
    "flow dpm++": (DPMSolverMultistepScheduler(**FLOW), 8),
}
SCHEDULERS = {**NOISE_SCHEDULERS, **FLOW_SCHEDULERS}
every_scheduler = pytest.mark.parametrize("kind", SCHEDULERS)


def build(kind: str) -> tuple[DiffusionPipeline, str, int]:
    """A pipeline with this scheduler, the name of its tiny case and the evaluations of eight steps."""
    name = "wan" if kind in FLOW_SCHEDULERS else "sd"
    pipe = TINY[name].build()
    scheduler, evaluations = SCHEDULERS[kind]
    pipe.scheduler = type(scheduler).from_config(scheduler.config)
    return pipe, name, evaluations


@pytest.mark.part(1)
@every_scheduler
def test_never_skipping_is_bit_identical_with_every_scheduler(kind: str) -> None:
    pipe, name, _ = build(kind)
    plain = run(pipe, TINY[name])
    for method in (FixedInterval(1, min_steps=1), EasyCache(0.0, min_steps=1)):
        with accel.accelerate(pipe, cache=method):
            assert torch.equal(run(pipe, TINY[name]), plain)
    assert torch.equal(run(pipe, TINY[name]), plain)


@pytest.mark.part(2)
@every_scheduler
def test_steps_are_counted_and_the_last_is_known_with_every_scheduler(kind: str) -> None:
    """With the loosest setting the first and the last evaluation compute and all between them are predicted."""
    pipe, name, evaluations = build(kind)
    method = FixedInterval(1000, predictor=LastOutput(), warmup=1, final=1, min_steps=1)
    with accel.accelerate(pipe, cache=method) as session:
        run(pipe, TINY[name])
    first_stream = session.report().calls[0].stream
    calls = [call for call in session.report().calls if call.stream == first_stream]
    assert [call.step for call in calls] == list(range(evaluations))
    assert session.report().timeline()[first_stream] == "█" + "·" * (evaluations - 2) + "█"
    positions = [call.position for call in calls]
    assert positions == sorted(positions) and positions[0] == 0


@pytest.mark.part(2)
@every_scheduler
def test_sigma_is_that_of_the_timestep_with_every_scheduler(kind: str) -> None:
    """Against what the denoiser was told: t / 1000 for flow matching, else the noise-to-signal ratio at t."""
    pipe, name, _ = build(kind)
    with accel.accelerate(pipe, accel.Recipe()) as session, witness(pipe) as seen:
        run(pipe, TINY[name])
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.003**0.5, 1000) ** 2, 0).tolist()
    for call, exchange in zip(session.report().calls, seen.exchanges, strict=True):
        told = float(torch.as_tensor(exchange.args[1] if exchange.args else exchange.kwargs["timestep"]).max())
        alpha = (alphas[math.floor(told) % 1000] + alphas[math.ceil(told) % 1000]) / 2
        expected = told / 1000 if name == "wan" else math.sqrt((1 - alpha) / alpha)
        assert call.sigma == pytest.approx(expected, rel=0.02, abs=0.01)


@pytest.mark.part(1)
@pytest.mark.parametrize("kind", ["ddim", "flow euler"])
def test_a_second_run_with_another_step_count_has_its_own_timetable(kind: str) -> None:
    pipe, name, _ = build(kind)
    method = FixedInterval(1000, predictor=LastOutput(), warmup=1, final=1, min_steps=1)
    with accel.accelerate(pipe, cache=method) as session:
        for steps in (8, 5, 12):
            run(pipe, TINY[name], steps=steps)
            assert next(iter(session.report().timeline().values())) == "█" + "·" * (steps - 2) + "█"


# The clock alone


def scheduler(**attributes: Any) -> Any:
    return (
        SimpleNamespace(config={}, timesteps=torch.tensor([999.0, 750.0, 500.0, 250.0]))
        if not attributes
        else (SimpleNamespace(config={}, **attributes))
    )


def test_the_timetable_reads_sigmas_and_leaves_the_final_zero_out() -> None:
    table = Timetable(scheduler(timesteps=torch.tensor([1000.0, 500.0]), sigmas=torch.tensor([1.0, 0.5, 0.0])))
    assert table.sigmas == [1.0, 0.5]


def test_the_timetable_turns_alphas_into_noise_to_signal() -> None:
    table = Timetable(scheduler(timesteps=torch.tensor([1, 0]), alphas_cumprod=torch.tensor([0.8, 0.5])))
    assert table.sigmas == pytest.approx([1.0, 0.5])


def test_the_timetable_finds_a_timestep_in_every_convention() -> None:
    table = Timetable(scheduler())
    assert [table.index_of(told) for told in (750.0, torch.tensor([0.75]), torch.tensor(0.25), None)] == [1, 1, 3, 0]
    assert table.index_of(1 - 0.999) == 0  # counted from clean to noise


def test_a_timestep_that_may_be_the_first_or_the_last_is_the_first() -> None:
    """PRX gives its model t/1000 and tells the scheduler no place, and a shift of 1 ends at timestep 1."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(24)
    table = Timetable(scheduler)
    assert table.timesteps[-1] == pytest.approx(1.0)
    assert table.index_of(1.0) == 0
    assert table.index_of(table.timesteps[5] / 1000) == 5


def test_streams_are_named_by_the_pipeline_where_it_does() -> None:
    clock = Clock()
    clock.begin_run(scheduler())
    words = torch.ones(1, 2)
    clock.cache_contexts["transformer"] = "cond"
    assert clock.place_call("transformer", words, 999.0)[1:3] == ("cond", True)
    clock.cache_contexts["transformer"] = "uncond"
    assert clock.place_call("transformer", words, 999.0)[1:3] == ("uncond", False)


def test_streams_are_told_by_their_conditioning_whatever_the_order() -> None:
    clock, words, others = Clock(), torch.ones(1, 2), torch.zeros(1, 2)
    clock.begin_run(scheduler())
    assert [clock.place_call("t", one, 999.0)[1] for one in (words, others)] == ["pass 1", "pass 2"]
    clock.step_done(scheduler())
    assert [clock.place_call("t", one, 750.0)[1] for one in (others, words)] == ["pass 2", "pass 1"]
    clock.step_done(scheduler())
    # Rebuilt in every step, and one of them gone: never by parity.
    assert clock.place_call("t", others.clone(), 500.0)[1:3] == ("pass 2", True)
    clock.step_done(scheduler())
    assert clock.place_call("t", words.clone(), 250.0)[1:3] == ("pass 1", True)


def test_the_same_conditioning_twice_in_a_step_is_two_streams() -> None:
    clock, words = Clock(), torch.ones(1, 2)
    clock.begin_run(scheduler())
    for _ in range(2):
        assert [clock.place_call("t", words, 999.0)[1:3] for _ in range(2)] == [("pass 1", True), ("pass 1 (2)", False)]
        clock.step_done(scheduler())


def test_without_conditioning_streams_are_told_by_their_order() -> None:
    clock = Clock()
    clock.begin_run(scheduler())
    assert [clock.place_call("t", None, 999.0)[1] for _ in range(2)] == ["pass 1", "pass 2"]


def test_several_updates_between_two_evaluations_are_one_step() -> None:
    clock = Clock()
    clock.begin_run(scheduler())
    assert clock.place_call("t", None, 999.0)[0].step == 0
    clock.step_done(scheduler())
    clock.step_done(scheduler())
    context = clock.place_call("t", None, 750.0)[0]
    assert (context.step, context.position, context.total) == (1, 1, 4)


def test_a_cleared_clock_keeps_neither_scheduler_nor_tensors() -> None:
    clock, words = Clock(), torch.ones(1, 2)
    clock.begin_run(scheduler())
    clock.place_call("t", words, 999.0)
    clock.clear()
    context, stream, leader, _ = clock.place_call("t", torch.zeros(1, 2), 1.0)
    assert (context.step, context.total, stream, leader) == (0, 0, "pass 1", True)
