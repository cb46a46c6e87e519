"""The correction of forecasts: where the answers are a polynomial in noise level, the run ends where it would have
without any forecast, whatever was forecast. Checked with real schedulers on denoisers that are formulas."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

import accel
import accel.samplers
from accel import Extrapolate, FixedInterval, LastOutput
from accel.clock import Timetable
from accel.polynomials import interpolation_weights
from accel.samplers import AdamsBashforth, DPMSolver, PseudoCorrector, UniPC
from accel.spaces import output_from_clean, time_of
from tests.caching.toy import ToyPipeline

SHAPE = (2, 3, 4)
FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
CURVES = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def curve(time: float, degree: int) -> torch.Tensor:
    return sum((CURVES[power] * time**power for power in range(degree + 1)), torch.zeros(SHAPE, dtype=torch.float64))


class FormulaPipeline:
    """Its denoiser answers as if the clean estimate (space "x0") or the output were a polynomial in noise level."""

    def __init__(self, scheduler: Any, space: str, degree: int) -> None:
        self.scheduler, self.space, self.degree = scheduler, space, degree
        flow = "Flow" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas")
        self.kind = "flow" if flow else scheduler.config.prediction_type
        self.transformer = torch.nn.Identity()
        self.transformer.forward = self.formula  # type: ignore[assignment]
        self.config = SimpleNamespace(_name_or_path="")
        self.components = {"transformer": self.transformer, "scheduler": scheduler}

    def formula(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        sigma = self.sigma_of(timestep)
        value = curve(time_of(sigma, self.kind), self.degree)
        if self.space == "output" or self.kind == "sample":
            return (value,)
        return (output_from_clean(value, hidden_states, sigma, self.kind).double(),)

    def sigma_of(self, timestep: torch.Tensor) -> float:
        if hasattr(self.scheduler, "sigmas") and not isinstance(self.scheduler, CogVideoXDDIMScheduler):
            return Timetable(self.scheduler).sigmas[self.scheduler.step_index or 0]
        alpha = float(self.scheduler.alphas_cumprod[int(timestep)])
        return math.sqrt((1 - alpha) / alpha)

    def __call__(self, num_inference_steps: int = 20) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        latents = latents * float(self.scheduler.init_noise_sigma if hasattr(self.scheduler, "init_noise_sigma") else 1)
        for timestep in self.scheduler.timesteps:
            before = latents  # a last step that leads to sigma 0 returns its clean estimate and hides every error
            scale = getattr(self.scheduler, "scale_model_input", lambda x, _: x)
            prediction = self.transformer.forward(scale(latents, timestep), timestep)[0]
            latents = self.scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        return before


EULER = {
    "flow": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "euler epsilon": lambda: EulerDiscreteScheduler(prediction_type="epsilon"),
    "euler v": lambda: EulerDiscreteScheduler(prediction_type="v_prediction"),
    "euler sample": lambda: EulerDiscreteScheduler(prediction_type="sample"),
    "ddim epsilon": lambda: DDIMScheduler(clip_sample=False),
    "ddim v": lambda: DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    "cogvideox ddim v": lambda: CogVideoXDDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing"
    ),
}


def ended(pipe: FormulaPipeline, predictor: accel.caching.Predictor) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipe, cache=FixedInterval(4, warmup=3, predictor=predictor)) as session:
        return pipe(), session.report()


@pytest.mark.parametrize(
    ("name", "space"),
    [(name, space) for name in EULER for space in ("output", "x0") if (name[-1], space[0]) != ("v", "o")],
)
@pytest.mark.parametrize("degree", [1, 2])
def test_a_corrected_run_ends_where_the_plain_one_does_if_the_answers_are_such_a_polynomial(
    name: str, space: str, degree: int
) -> None:
    pipe = FormulaPipeline(EULER[name](), space, degree)
    plain = pipe()
    wrong, _ = ended(pipe, Extrapolate(0, space=space, corrector=0))
    right, report = ended(pipe, Extrapolate(0, space=space, corrector=2))
    assert report.predicted > 8
    assert (wrong - plain).norm() > 1e-3 * plain.norm()
    assert (right - plain).norm() < 1e-4 * (wrong - plain).norm()


def test_velocities_have_no_such_coordinates_and_are_left_uncorrected() -> None:
    pipe = FormulaPipeline(EULER["ddim v"](), "output", 2)
    _, report = ended(pipe, Extrapolate(1, space="output"))
    assert report.predicted and not any("corrects" in call.reason for call in report.calls)


# Schedulers and solvers that use several answers in one update: the scheduler, and the sampler in place of its update.
MULTISTEP: dict[str, tuple[Any, accel.samplers.Sampler | None]] = {
    "flow unipc": (lambda: UniPCMultistepScheduler(**FLOW, flow_shift=3.0), None),
    "flow unipc 3": (lambda: UniPCMultistepScheduler(**FLOW, flow_shift=3.0, solver_order=3), None),
    "flow dpm": (lambda: DPMSolverMultistepScheduler(**FLOW, flow_shift=3.0), None),
    "unipc epsilon": (lambda: UniPCMultistepScheduler(), None),
    "unipc v": (lambda: UniPCMultistepScheduler(prediction_type="v_prediction"), None),
    "dpm epsilon": (lambda: DPMSolverMultistepScheduler(), None),
    "ours, unipc": (lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), UniPC()),
    "ours, dpm epsilon": (lambda: DDIMScheduler(clip_sample=False), DPMSolver()),
    "ours, pseudo-corrector": (lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), PseudoCorrector()),
    "ours, adams-bashforth 3": (lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), AdamsBashforth(3)),
}


@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("interval", [2, 4])
def test_so_does_a_run_whose_updates_use_several_answers(name: str, interval: int) -> None:
    """What the solver remembers of forecasts, and of answers that paid for them, is made up for in the steps after."""
    scheduler, sampler = MULTISTEP[name]
    space = "output" if name in ("ours, pseudo-corrector", "ours, adams-bashforth 3") else "x0"
    pipe = FormulaPipeline(scheduler(), space, 2)
    with accel.accelerate(pipe, accel.Recipe(sampler=sampler)):
        plain = pipe()

    def missed(corrector: int) -> tuple[float, str]:
        predictor = Extrapolate(0, corrector=corrector, space=space)
        cache = FixedInterval(interval, warmup=4, final=2, predictor=predictor)
        with accel.accelerate(pipe, accel.Recipe(cache=cache, sampler=sampler)) as session:
            found = float((pipe() - plain).norm())
        assert session.report().predicted > 6
        return found, session.report().levers[-1].reason

    (wrong, _), (right, reason) = missed(0), missed(2)
    assert wrong > 1e-4 * plain.norm()
    assert right < 1e-2 * wrong
    assert "not corrected" not in reason


def test_the_space_of_forecasts_is_that_of_the_update() -> None:
    """UniPC's answers are clean estimates, so these are what is forecast of a flow under it; asked for something else,
    the cache leaves its forecasts uncorrected."""
    pipe = FormulaPipeline(MULTISTEP["flow unipc"][0](), "x0", 2)
    chosen, _ = ended(pipe, Extrapolate(0))
    asked, _ = ended(pipe, Extrapolate(0, space="x0"))
    assert torch.equal(chosen, asked)
    _, report = ended(pipe, Extrapolate(0, space="output"))
    assert "not corrected under UniPCMultistepScheduler" in report.levers[0].reason


def test_unknown_updates_are_left_uncorrected() -> None:
    pipe = FormulaPipeline(DPMSolverMultistepScheduler(solver_type="heun"), "output", 2)
    plain, _ = ended(pipe, Extrapolate(1, corrector=0, space="output"))
    corrected, report = ended(pipe, Extrapolate(1, corrector=2, space="output"))
    assert torch.equal(plain, corrected)
    assert not any("corrects" in call.reason for call in report.calls)
    assert "not corrected under DPMSolverMultistepScheduler" in report.levers[0].reason


def test_the_report_says_which_steps_correct() -> None:
    pipe = ToyPipeline(lambda latents, sigma: latents * sigma)
    with accel.accelerate(pipe, cache=FixedInterval(3, warmup=2, predictor=Extrapolate())) as session:
        pipe(num_inference_steps=12)
    assert [call.reason for call in session.report().calls if "corrects" in call.reason] == [
        "every 3; corrects the last 2",
        "every 3; corrects the last 2",
        "every 3; corrects the last 2",
    ]


def test_a_corrected_answer_does_not_enter_the_history() -> None:
    """The next forecast starts from what the denoiser said. LastOutput shows it: it repeats the uncorrected answer."""
    answers = iter(range(1, 100))
    pipe = ToyPipeline(lambda latents, sigma: torch.full_like(latents, float(next(answers))))
    with accel.accelerate(pipe, cache=FixedInterval(2, warmup=1, final=0, predictor=Extrapolate(0, corrector=1))):
        predictions = pipe(num_inference_steps=12)[:, 0, 0, 0, 0].tolist()
    computed, forecast = predictions[2::2], predictions[3::2]
    assert forecast == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert computed != forecast
    with accel.accelerate(pipe, cache=FixedInterval(2, warmup=1, final=0, predictor=LastOutput())) as session:
        pipe(num_inference_steps=12)
    assert not any("corrects" in call.reason for call in session.report().calls)


def test_interpolation_weights_are_lagranges() -> None:
    """Hand-computed: through times 0, 1, 2 at 1.5 the weights are -1/8, 6/8, 3/8; here twice, with weight 2 in all."""
    assert interpolation_weights([0.0, 1.0, 2.0], [(1.5, 0.5), (1.5, 1.5)]) == pytest.approx([-0.25, 1.5, 0.75])
    assert interpolation_weights([0.0, 1.0, 2.0], [(1.0, 3.0)]) == pytest.approx([0.0, 3.0, 0.0])
