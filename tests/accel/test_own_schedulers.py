"""Schedulers that somebody has written or changed: they are asked like any other, and never touched."""

from __future__ import annotations

import threading
import warnings
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

import accel
from accel import Extrapolate, FixedInterval
from accel.schedulers import scheduler_anatomy
from tests.formula import FormulaPipeline
from tests.schedulers import SCHEDULERS
from tests.tiny import TINY, run


class Own:
    """Euler steps from noise to clean, and nothing that a loop does not need."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        self.timesteps = torch.linspace(1000.0, 1000.0 / num_inference_steps, num_inference_steps)

    def step(self, output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> tuple[torch.Tensor]:
        return (sample - output / len(self.timesteps),)


CONFIGS: dict[str, dict[str, Any]] = {
    "no settings": {},
    "an object": {"config": SimpleNamespace(shift=3.0)},
    "a mapping": {"config": {"shift": 3.0}},
    "a lock": {"config": {}, "lock": threading.Lock()},
}


def own(name: str) -> Any:
    scheduler = Own()
    scheduler.__dict__ |= CONFIGS[name]
    scheduler.set_timesteps(1000)
    return scheduler


@pytest.mark.parametrize("name", CONFIGS)
def test_one_with_a_timetable_and_a_step_alone_is_corrected(name: str) -> None:
    pipe = FormulaPipeline(own(name))
    plain = pipe()
    cache = FixedInterval(3, warmup=4, final=2, predictor=Extrapolate(0, corrector=2))
    with accel.accelerate(pipe, cache=cache) as session:
        found = pipe()
    assert session.report().predicted > 5
    assert float((found - plain).norm() / plain.norm()) < 1e-6
    assert torch.equal(pipe(), plain)


def test_a_preset_says_what_it_does_not_know_and_computes_more() -> None:
    pipe = FormulaPipeline(own("no settings"))
    with pytest.warns(UserWarning, match="does not say at which noise levels its steps are"):
        session = accel.accelerate(pipe, "balanced")
    with session:
        pipe(28)
    assert session.report().computed == 22  # of the 12 that it would skip elsewhere, half
    assert "not corrected" not in session.report().levers[0].reason


def over_its_methods(scheduler: Any, *names: str) -> Any:
    """As users do it: the method is taken off, and a function put in its place that calls it."""
    for name in names:
        method = getattr(scheduler, name)
        setattr(scheduler, name, lambda *args, method=method, **kwargs: method(*args, **kwargs))
    return scheduler


def state(scheduler: Any) -> dict[str, str]:
    return {name: repr(value) for name, value in vars(scheduler).items()}


@pytest.mark.part(4)
@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_functions_over_its_methods_lead_to_the_scheduler_itself_and_are_not_tried(name: str) -> None:
    scheduler = over_its_methods(SCHEDULERS[name](), "set_timesteps", "step")
    before = state(scheduler)
    asked = scheduler_anatomy(scheduler)
    assert state(scheduler) == before
    assert "replaced by a function" in asked.uncorrectable


def test_nor_are_they_in_the_middle_of_a_run() -> None:
    """The user's function counts: an accelerated run takes no other steps than the plain one."""
    heard: list[float] = []
    scheduler = EulerDiscreteScheduler()
    step = scheduler.step

    def counted(output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        heard.append(float(timestep))
        return step(output, timestep, *args, **kwargs)

    pipe = FormulaPipeline(scheduler)
    plain = pipe()
    scheduler.step = counted  # type: ignore[method-assign]
    for recipe in (accel.Recipe(), accel.Recipe(cache=FixedInterval(3))):
        heard.clear()
        with accel.accelerate(pipe, recipe) as session:
            found = pipe()
        assert heard == scheduler.timesteps.tolist()
        assert torch.equal(found, plain) is (recipe.cache is None)
    assert "its step has been replaced by a function" in session.report().levers[0].reason


def test_a_method_that_was_put_back_is_no_function_of_somebodys() -> None:
    scheduler: Any = EulerDiscreteScheduler()
    scheduler.step = scheduler.step
    assert not scheduler_anatomy(scheduler).uncorrectable


CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "what is predicted": (DDIMScheduler(clip_sample=False), {"prediction_type": "v_prediction"}),
    "what is linear": (DDIMScheduler(clip_sample=False), {"thresholding": True}),
    "what is random": (DPMSolverMultistepScheduler(), {"algorithm_type": "sde-dpmsolver++"}),
}


@pytest.mark.part(1)
@pytest.mark.parametrize("change", CHANGES)
def test_settings_that_change_between_calls_are_those_of_the_next_one(change: str) -> None:
    scheduler, changed = CHANGES[change]
    pipe = FormulaPipeline(scheduler, "output")
    with accel.accelerate(pipe, "balanced") as session:
        pipe()
        scheduler.register_to_config(**changed)
        found = pipe()
    with warnings.catch_warnings(), accel.accelerate(pipe, "balanced") as fresh:
        warnings.simplefilter("ignore")
        assert torch.equal(found, pipe())
    assert session.report().computed == fresh.report().computed


def test_noise_that_the_call_asks_for_counts_like_that_of_the_scheduler() -> None:
    """DDIM with `eta=1` is DDPM: `balanced` computes more steps, and says why."""
    pipe = TINY["sd"].build()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    computed, reasons = {}, {}
    for eta in (0.0, 1.0):
        with accel.accelerate(pipe, "balanced") as session:
            run(pipe, TINY["sd"], steps=28, eta=eta, guidance=False)
        computed[eta], reasons[eta] = session.report().computed, session.report().levers[0].reason
    assert 16 <= computed[0.0] < 22 <= computed[1.0]
    assert "its updates add noise" in reasons[1.0]
    assert "its updates add noise" not in reasons[0.0]


def test_one_without_a_timetable_is_left_alone_with_a_clause() -> None:
    """Made before any run, and deaf to `set_timesteps`."""

    class Bare:
        config: ClassVar[dict[str, Any]] = {}

        def set_timesteps(self, steps: int) -> None:
            pass

        def step(self, output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> tuple[torch.Tensor]:
            return (sample - output,)

    found = scheduler_anatomy(Bare())
    assert found.uncorrectable == "it has no timetable of its own"
    assert found.irreplaceable and found.told is None
