"""Samplers for few-step models: diffusers' own, step for step; the distribution that they must keep; seeds, noise."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LCMScheduler,
    TCDScheduler,
)

import accel
from accel.parametrization import flow_time
from accel.samplers import LCM, TCD, TDD, Euler, Origin, Sampler
from accel.samplers.sampler import StepPlace
from accel.samplers.sigmas import Grid
from accel.samplers.timesteps import training_sigmas
from tests.accel.residue import snapshot, traces
from tests.accel.witness import pipeline, plain
from tests.samplers.test_solvers_pipelines import Loop, relative
from tests.tiny import TINY, run

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
FEW: dict[str, Sampler] = {"LCM": LCM(), "TCD": TCD(), "TDD": TDD()}
every_sampler = pytest.mark.parametrize("name", FEW)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Looped(Loop):
    """A loop whose call takes a generator and does not hand it to the scheduler, as most pipelines."""

    def __call__(self, num_inference_steps: int = 4, generator: Any = None, **options: Any) -> torch.Tensor:
        return super().__call__(num_inference_steps, **options)


def accelerated(scheduler: Any, sampler: Sampler, steps: int = 4, **options: Any) -> torch.Tensor:
    pipe = Looped(scheduler)
    with accel.accelerate(pipe, accel.Recipe(sampler=sampler)) as session:
        found = pipe(steps, **options)
    lever = session.report().levers[0]
    assert lever.engaged and lever.reason.startswith(f"{steps} of {steps} updates replaced"), lever.reason
    return found


# Against diffusers


@pytest.mark.part(6)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lcm_is_diffusers_lcm_with_the_same_noise(prediction: str, steps: int) -> None:
    """On a scheduler for ordinary sampling, whose noise levels become those of the distillation's grid."""
    expected = Loop(LCMScheduler(prediction_type=prediction, **BETAS))(steps, generator=seeded())
    scheduler = DPMSolverMultistepScheduler(prediction_type=prediction, **BETAS)
    assert relative(accelerated(scheduler, LCM(), steps, generator=seeded()), expected) < 2e-5


@pytest.mark.part(5)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 4, 8])
def test_tcd_is_diffusers_tcd_with_the_same_noise(prediction: str, eta: float, steps: int) -> None:
    """It ends at timestep 0, as schedulers do that have final_sigmas_type="sigma_min"."""
    expected = Loop(TCDScheduler(prediction_type=prediction, **BETAS))(steps, eta=eta, generator=seeded())
    scheduler = DPMSolverMultistepScheduler(prediction_type=prediction, final_sigmas_type="sigma_min", **BETAS)
    assert relative(accelerated(scheduler, TCD(eta), steps, generator=seeded()), expected) < 2e-5


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_lcm_is_diffusers_flow_lcm_with_the_same_noise(steps: int, shift: float) -> None:
    even = [1.0 - step / steps for step in range(steps)]
    reference = FlowMatchLCMScheduler(shift=shift)
    reference.set_timesteps(sigmas=even)
    x, noise = torch.randn(2, 3, 4, generator=seeded(0)), seeded()
    model = Loop(reference).unet
    for timestep in reference.timesteps:
        x = reference.step(model(x, timestep)[0], timestep, x, noise, return_dict=False)[0]
    found = accelerated(FlowMatchEulerDiscreteScheduler(shift=shift), LCM(), steps, generator=seeded())
    assert relative(found, x) < 1e-6


@pytest.mark.part(4)
@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(clip_sample=False, **BETAS),
        DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction", **BETAS),
        EulerDiscreteScheduler(**BETAS),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
@pytest.mark.parametrize("method", [TCD, TDD])
def test_without_noise_it_is_euler(scheduler: Any, method: Any) -> None:
    expected = accelerated(scheduler, Euler(sigmas=own_grid(scheduler, method)), 6)
    torch.random.manual_seed(0)
    state = torch.random.get_rng_state()
    assert relative(accelerated(scheduler, method(0.0), 6), expected) < 2e-6
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing was drawn


def own_grid(scheduler: Any, method: Any) -> Any:
    return None if isinstance(scheduler, DDIMScheduler) else method().grid


def test_all_the_way_down_it_is_lcm() -> None:
    for times, following, remaining in (((1.0,), 0.7, 3), ((0.7,), 0.2, 2), ((0.2,), 0.0, 1)):
        place = StepPlace(0, remaining)
        (keep, answers, noise), lcm = TCD(1.0).update(times, following, place), LCM().update(times, following, place)
        assert (keep, *answers, noise) == pytest.approx((lcm.keep, *lcm.outputs, lcm.noise))


# The noise levels


def test_the_grid_of_the_distillation() -> None:
    assert Origin().timesteps(4) == [999, 759, 499, 259]
    assert Origin().timesteps(8) == [999, 879, 759, 639, 499, 379, 259, 139]
    assert Origin(250).timesteps(4) == [999, 751, 499, 251]
    assert Origin(250, "uneven").timesteps(5) == [999, 875, 751, 499, 251]
    assert Origin(250, "uneven").timesteps(4) == Origin(250).timesteps(4)


@pytest.mark.parametrize("steps", [1, 3, 4, 6, 50])
def test_the_grid_is_diffusers(steps: int) -> None:
    for scheduler in (LCMScheduler(), TCDScheduler()):
        scheduler.set_timesteps(steps)
        assert Origin().timesteps(steps) == scheduler.timesteps.tolist()


def test_euler_schedulers_are_told_the_grid_too() -> None:
    pipe = Looped(EulerDiscreteScheduler(**BETAS))
    with accel.accelerate(pipe, accel.Recipe(sampler=LCM())):
        pipe(4)
    assert pipe.scheduler.timesteps.tolist() == pytest.approx([999, 759, 499, 259], abs=0.1)


def test_levels_that_cannot_be_told_stay_and_the_report_says_so() -> None:
    pipe = Looped(DDIMScheduler(clip_sample=False))
    with accel.accelerate(pipe, accel.Recipe(sampler=LCM())) as session:
        pipe(4)
    assert session.report().levers[0].reason == (
        "4 of 4 updates replaced; the scheduler's noise levels stayed: DDIMScheduler chooses them itself"
    )
    pipe = Looped(DPMSolverMultistepScheduler(**BETAS))
    with accel.accelerate(pipe, accel.Recipe(sampler=LCM())) as session:
        pipe(60)
    assert "60 steps cannot be chosen from a grid of 50" in session.report().levers[0].reason


# The distribution


MEAN, VARIANCE = 1.5, 0.3
SAMPLES = 200_000


def consistent(x: torch.Tensor, time: float) -> torch.Tensor:
    """The exact consistency function of a Gaussian: where its probability flow ends that goes through x."""
    deviation = math.sqrt(((1 - time) ** 2) * VARIANCE + time**2)
    return MEAN + math.sqrt(VARIANCE) / deviation * (x - (1 - time) * MEAN)


def drawn(sampler: Sampler, times: list[float]) -> torch.Tensor:
    noise = seeded(0)
    x = torch.randn(SAMPLES, generator=noise, dtype=torch.float64)
    for index, (time, following) in enumerate(pairwise(times)):
        answer = consistent(x, time)
        if sampler.space == "velocity":
            answer = (x - answer) / time
        keep, (weight,), fresh = sampler.update((time,), following, StepPlace(index, len(times) - 1 - index))
        x = keep * x + weight * answer + fresh * torch.randn(SAMPLES, generator=noise, dtype=torch.float64)
    return x


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lcm_keeps_the_distribution_of_an_exact_consistency_function(steps: int) -> None:
    found = drawn(LCM(), [1.0 - step / steps for step in range(steps + 1)])
    assert float(found.mean()) == pytest.approx(MEAN, abs=4 * math.sqrt(VARIANCE / SAMPLES))
    assert float(found.var()) == pytest.approx(VARIANCE, abs=4 * VARIANCE * math.sqrt(2 / SAMPLES))


def test_following_the_path_with_answers_about_its_end_does_not() -> None:
    """Why a consistency model wants LCM: along the path its outputs, right for the end, lead too far."""
    times = [1.0, 0.75, 0.5, 0.25, 0.0]
    errors = {str(s): abs(float(drawn(s, times).var()) - VARIANCE) for s in (LCM(), TCD(), TCD(0.0), Euler())}
    print(errors)
    assert errors["LCM()"] < 0.01 < errors["TCD()"] < errors["TCD(eta=0.0)"] == pytest.approx(errors["Euler()"])


@pytest.mark.parametrize("ladder", ["flow", "epsilon"])
@pytest.mark.parametrize("eta", [0.1, 0.3, 0.8])
def test_what_tcd_goes_below_is_given_back_as_noise(eta: float, ladder: str) -> None:
    """For a path with one clean picture and one noise, mean and variance after the step are those of its level."""
    rungs = [] if ladder == "flow" else [flow_time(sigma, False) for sigma in training_sigmas(DDIMScheduler())]
    keep, (weight,), noise = TCD(eta).update((0.8,), 0.4, StepPlace(0, 3, rungs))
    clean, coming = 2.0, 0.8 * keep  # x = (1 - t) clean + t z
    assert keep * 0.2 * clean + weight * clean == pytest.approx(0.6 * clean)
    assert coming**2 + noise**2 == pytest.approx(0.4**2)
    assert 0 < noise < 0.4


# Clipping


@pytest.mark.parametrize("quantile", [1.0, 0.9])
def test_clipping_is_diffusers_clipping(quantile: float) -> None:
    """With one step the estimate is the result."""
    settings = {"clip_sample": True} if quantile == 1.0 else {"thresholding": True}
    settings |= {"dynamic_thresholding_ratio": quantile, "sample_max_value": 1e9}
    expected = Loop(LCMScheduler(**settings, **BETAS))(1)
    found = accelerated(DPMSolverMultistepScheduler(**BETAS), LCM(clip=1.0, quantile=quantile), 1)
    assert relative(found, expected) < 1e-5
    assert found.abs().max() <= 1.0 + 1e-6


def test_only_the_first_steps_are_clipped() -> None:
    estimate = torch.tensor([[-3.0, 0.5, 2.0]])
    method = TDD(clip=1.0, clip_steps=2)
    assert method.clamp(estimate, 1).tolist() == [[-1.0, 0.5, 1.0]]
    assert method.clamp(estimate, 2) is estimate


# In pipelines

SEEDED = [
    pytest.param(name, marks=() if name in ("wan", "sdxl", "flux") else pytest.mark.slow)
    for name in ["wan", "sdxl", "flux", "sd3", "mochi", "pixart", "cogvideox", "svd", "animatediff", "z_image"]
]


@pytest.mark.part(1)
@pytest.mark.parametrize("name_of_pipeline", SEEDED)
@every_sampler
def test_a_seed_decides_everything(name: str, name_of_pipeline: str) -> None:
    pipe, tiny = pipeline(name_of_pipeline), TINY[name_of_pipeline]
    with accel.accelerate(pipe, accel.Recipe(sampler=FEW[name])) as session:
        one, again, other = (run(pipe, tiny, steps=4, seed=seed) for seed in (0, 0, 1))
        state = torch.random.get_rng_state()
        run(pipe, tiny, steps=4)
        assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is not touched
    assert torch.isfinite(one).all() and torch.equal(one, again) and not torch.equal(one, other)
    assert session.report().levers[0].reason.startswith("4 of 4 updates replaced")


@pytest.mark.part(1)
@pytest.mark.parametrize("name_of_pipeline", ["wan", "sdxl", "ltx", "cogvideox"])
def test_a_batch_with_a_generator_for_each_sample_is_its_single_runs(name_of_pipeline: str) -> None:
    pipe, tiny = pipeline(name_of_pipeline), TINY[name_of_pipeline]
    with accel.accelerate(pipe, accel.Recipe(sampler=LCM())):
        batch = run(pipe, tiny, steps=4, batch=2)
        for sample in range(2):
            alone = run(pipe, tiny, steps=4, seed=sample, prompt=sample)
            assert relative(batch[sample : sample + 1], alone) < 1e-4


@every_sampler
def test_one_step_is_eulers_step_to_the_end(name: str) -> None:
    with accel.accelerate(pipeline("sd3"), accel.Recipe(sampler=FEW[name])):
        found = run(pipeline("sd3"), TINY["sd3"], steps=1)
    assert relative(found, plain("sd3", steps=1)) < 1e-6


@pytest.mark.slow  # test_scheduler_swap.py has the same of a scheduler
@pytest.mark.part(1)
@every_sampler
@pytest.mark.parametrize("name_of_pipeline", ["wan", "sdxl"])
def test_restore_gives_the_pipeline_back_also_after_an_exception(name: str, name_of_pipeline: str) -> None:
    pipe, tiny = TINY[name_of_pipeline].build(), TINY[name_of_pipeline]
    run(pipe, tiny, steps=4)
    before = snapshot(pipe)

    def fail(*_: Any) -> Any:
        raise InterruptedError

    with accel.accelerate(pipe, accel.Recipe(sampler=FEW[name])):
        expected = run(pipe, tiny, steps=4)
        with pytest.raises(InterruptedError):
            run(pipe, tiny, steps=4, callback_on_step_end=fail)
        assert torch.equal(run(pipe, tiny, steps=4), expected)
    run(pipe, tiny, steps=4)
    assert traces(pipe) == []
    assert {path for path, part in snapshot(pipe).items() if path.startswith("class") and part != before[path]} == set()
    assert torch.equal(run(pipe, tiny), plain(name_of_pipeline))


def test_other_levers_leave_runs_of_a_few_steps_alone_and_say_so() -> None:
    """The default cache, and one whose corrections need plain Euler steps, which noisy ones are not."""
    pipe, tiny = pipeline("sdxl"), TINY["sdxl"]
    with accel.accelerate(pipe, accel.Recipe(sampler=LCM())):
        expected = run(pipe, tiny, steps=4)
    with accel.accelerate(pipe, "balanced", sampler=LCM()) as session:
        assert torch.equal(run(pipe, tiny, steps=4), expected)
        assert session.anatomy.random
    cache = next(lever for lever in session.report().levers if lever.lever == "cache")
    assert not cache.engaged and "a run of 4 steps is under min_steps=10" in cache.reason


@every_sampler
def test_recipes_keep_them(name: str) -> None:
    method = type(FEW[name])(clip=1.0, quantile=0.995, clip_steps=1, sigmas=Origin(100))
    assert accel.Recipe.from_dict(accel.Recipe(sampler=method).to_dict()) == accel.Recipe(sampler=method)


@pytest.mark.parametrize(
    "make", [lambda: TCD(1.1), lambda: LCM(clip=-1.0), lambda: TDD(spacing="odd"), lambda: Origin(0)]
)
def test_wrong_parameters_are_refused_in_one_sentence(make: Any) -> None:
    with pytest.raises(ValueError) as refused:
        make()
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def test_the_grid_is_a_pure_function_of_the_table() -> None:
    ladder = tuple(range(1, 1001))
    assert Origin().levels(Grid((3.0, 2.0), False, ladder=ladder)) == [1000, 500]
    assert Origin().levels(Grid((1.0, 0.5), True, shift=3.0)) == pytest.approx([1.0, 0.75])
