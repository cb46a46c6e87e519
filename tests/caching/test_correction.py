"""The correction of forecasts: where the outputs are a polynomial in noise level, the run ends where it would have
without any forecast, whatever was forecast. Checked with real schedulers on denoisers that are formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler

import accel
import accel.samplers
from accel import Extrapolate, FixedInterval, LastOutput
from accel.parametrization import interpolation_weights
from accel.samplers import AdamsBashforth, DPMSolver, PseudoCorrector, UniPC
from tests.caching.toy import ToyPipeline
from tests.formula import FormulaPipeline
from tests.schedulers import SCHEDULERS

FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def ended(pipe: FormulaPipeline, predictor: accel.caching.Predictor) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipe, cache=FixedInterval(4, warmup=3, predictor=predictor)) as session:
        return pipe(), session.report()


@pytest.mark.part(3)
@pytest.mark.parametrize("space", ["output", "x0"])
@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("name", ["DDIMScheduler", "ddim v", "euler sample", "FlowMatchEulerDiscreteScheduler"])
def test_a_corrected_run_ends_where_the_plain_one_does_if_the_answers_are_such_a_polynomial(
    name: str, space: str, degree: int
) -> None:
    """In either space, whatever is predicted; tests/accel/test_schedulers.py has all schedulers."""
    pipe = FormulaPipeline(SCHEDULERS[name](), space, degree)
    plain = pipe()
    wrong, _ = ended(pipe, Extrapolate(0, space=space, corrector=0))
    right, report = ended(pipe, Extrapolate(0, space=space, corrector=2))
    assert report.predicted > 8
    assert (wrong - plain).norm() > 1e-3 * plain.norm()
    assert (right - plain).norm() < 1e-4 * (wrong - plain).norm()


# Samplers of ours that use several outputs in one update, in place of a scheduler's.
MULTISTEP: dict[str, tuple[str, accel.samplers.Sampler, str]] = {
    "unipc": ("FlowMatchEulerDiscreteScheduler", UniPC(), "x0"),
    "dpm epsilon": ("DDIMScheduler", DPMSolver(), "x0"),
    "pseudo-corrector": ("FlowMatchEulerDiscreteScheduler", PseudoCorrector(), "output"),
    "adams-bashforth 3": ("FlowMatchEulerDiscreteScheduler", AdamsBashforth(3), "output"),
}


@pytest.mark.part(2)
@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("interval", [2, 4])
def test_so_does_a_run_whose_updates_are_another_solvers(name: str, interval: int) -> None:
    """What the solver remembers of forecasts, and of outputs that paid for them, is made up for in the steps after."""
    scheduler, sampler, space = MULTISTEP[name]
    pipe = FormulaPipeline(SCHEDULERS[scheduler](), space)
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
    """UniPC's outputs are clean estimates, so these are what is forecast of a flow under it; asked for something else,
    the cache leaves its forecasts uncorrected."""
    pipe = FormulaPipeline(UniPCMultistepScheduler(**FLOW, flow_shift=3.0), "x0")
    chosen, _ = ended(pipe, Extrapolate(0))
    asked, _ = ended(pipe, Extrapolate(0, space="x0"))
    assert torch.equal(chosen, asked)
    _, report = ended(pipe, Extrapolate(0, space="output"))
    reason = report.levers[0].reason
    assert "not corrected under UniPCMultistepScheduler: its updates use more than 5 outputs" in reason


def test_under_updates_that_are_not_linear_forecasts_stay_as_they_are() -> None:
    pipe = FormulaPipeline(DDIMScheduler(clip_sample=True), "output")
    plain, _ = ended(pipe, Extrapolate(1, corrector=0, space="output"))
    corrected, report = ended(pipe, Extrapolate(1, corrector=2, space="output"))
    assert torch.equal(plain, corrected)
    assert not any("corrects" in call.reason for call in report.calls)
    assert "not corrected under DDIMScheduler: its updates are not linear" in report.levers[0].reason


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
