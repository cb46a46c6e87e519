"""Diffusers' own schedulers in place of a pipeline's: right where the table says so, refused elsewhere, and undone."""

from __future__ import annotations

import copy
import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

import accel
from accel.known_schedulers import KNOWN
from accel.samplers import DiffusersScheduler, Karras, PseudoCorrector, SchedulerSolver
from accel.samplers.scheduler_swap import SCHEDULERS
from tests.accel.residue import snapshot, traces
from tests.accel.witness import pipeline, plain
from tests.samplers import mixture
from tests.tiny import TINY, run

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
COGVIDEOX = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "snr_shift_scale": 3.0}
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SWAPPED = ["sd", "sdxl", "animatediff", "pixart", "cogvideox"]


class Exact(torch.nn.Module):
    """A denoiser that knows the output: for a noise table, a prediction and a function of the common coordinates."""

    def __init__(self, table: torch.Tensor, prediction: str, clean: Callable[[torch.Tensor, float], torch.Tensor]):
        super().__init__()
        self.config: dict[str, Any] = {}
        self.prediction, self.clean = prediction, clean
        table = table.double().clamp_min(1e-12)
        self.logs = ((1 - table) / table).sqrt().log().numpy()

    def forward(self, sample: torch.Tensor, timestep: Any) -> tuple[torch.Tensor]:
        sigma = float(np.exp(np.interp(float(timestep), np.arange(len(self.logs)), self.logs)))
        a, b = 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
        x0 = self.clean(sample.double() / (a + b), b / (a + b))
        noise = (sample.double() - a * x0) / b
        answer = {"epsilon": noise, "v_prediction": a * noise - b * x0, "sample": x0}[self.prediction]
        return (answer.to(sample.dtype),)


class Sampling:
    """A pipeline of that denoiser, from one noise."""

    def __init__(self, scheduler: Any, clean: Callable[[torch.Tensor, float], torch.Tensor], x: torch.Tensor) -> None:
        self.scheduler, self.x, self.config = scheduler, x, type("Config", (), {"_name_or_path": ""})()
        self.unet = Exact(scheduler.alphas_cumprod, scheduler.config.prediction_type, clean)
        self.seen: list[Any] = []

    @property
    def components(self) -> dict[str, Any]:
        return {"unet": self.unet, "scheduler": self.scheduler}

    def __call__(self, num_inference_steps: int = 10, fail: bool = False) -> torch.Tensor:
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps)
        self.seen.append(scheduler)
        x = self.x * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            if fail:
                raise InterruptedError
            answer = self.unet(scheduler.scale_model_input(x, timestep), timestep)[0]
            x = scheduler.step(answer, timestep, x, return_dict=False)[0]
        return x


MEAN, VARIANCE = 0.7, 0.4
NOISE = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


def gaussian(x: torch.Tensor, time: float) -> torch.Tensor:
    """E[x0 | x] for x0 from N(MEAN, VARIANCE)."""
    signal = 1 - time
    return MEAN + signal * VARIANCE / (signal**2 * VARIANCE + time**2) * (x - signal * MEAN)


def ending(scheduler: Any) -> torch.Tensor:
    """Where the flow of that Gaussian ends that begins with NOISE at the scheduler's noisiest timestep."""
    alpha = float(scheduler.alphas_cumprod[-1])
    a, b = alpha**0.5, (1 - alpha) ** 0.5
    return MEAN + VARIANCE**0.5 * (NOISE - a * MEAN) / (a * a * VARIANCE + b * b) ** 0.5


def source(kind: str, prediction: str) -> Any:
    settings = BETAS | {"prediction_type": prediction} | (COGVIDEOX if kind.startswith("CogVideoX") else {})
    known = {name: settings[name] for name in settings if name in vars_of(kind)}
    return getattr(diffusers, kind)(**known)


def vars_of(kind: str) -> set[str]:
    return set(inspect.signature(getattr(diffusers, kind).__init__).parameters)


@pytest.mark.part(8)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", [name for name, row in KNOWN.items() if row.exchanges])
def test_every_pair_in_the_table_has_the_same_model(kind: str, prediction: str) -> None:
    """The noise levels and the prediction of the old one, and nothing that changes the estimate on its way."""
    own = source(kind, prediction)
    for into in KNOWN[kind].exchanges:
        made = DiffusersScheduler(into).made_from(own)
        assert type(made).__name__ == into and made.config.prediction_type == prediction
        # Only the last, where other schedulers cannot do with no signal at all, may differ.
        torch.testing.assert_close(
            made.alphas_cumprod[:-1].double(), own.alphas_cumprod[:-1].double(), rtol=1e-3, atol=1e-6
        )
        assert not made.config.get("clip_sample") and not made.config.get("thresholding")


@pytest.mark.part(1)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("kind", "into"),
    [*(("EulerDiscreteScheduler", into) for into in SCHEDULERS)]
    + [("CogVideoXDDIMScheduler", into) for into in KNOWN["CogVideoXDDIMScheduler"].exchanges],
)
def test_the_exchanged_one_ends_where_the_exact_flow_ends(kind: str, into: str, prediction: str) -> None:
    own = source(kind, prediction)
    pipe = Sampling(own, gaussian, NOISE)
    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler(into))) as session:
        found = pipe(60 if kind != "CogVideoXDDIMScheduler" else 200)  # whose last step to no noise is a long one
    assert type(pipe.seen[0]).__name__ == into and pipe.scheduler is own
    assert session.report().levers[0].engaged
    assert (found - ending(own)).norm() < 0.03 * ending(own).norm()


@pytest.mark.part(2)
@pytest.mark.parametrize("into", [name for name, row in KNOWN.items() if row.pure_noise])
def test_models_that_start_from_pure_noise_keep_doing_so(into: str) -> None:
    own = DDIMScheduler(**BETAS, **ZERO, prediction_type="v_prediction")
    pipe = Sampling(own, gaussian, NOISE)
    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler(into))):
        assert (pipe(100) - ending(own)).norm() < 0.02 * ending(own).norm()


def test_what_from_config_alone_does_to_cogvideox_and_what_we_do() -> None:
    """Its shift of the noise levels is in no setting that others know."""
    own = source("CogVideoXDDIMScheduler", "v_prediction")
    pipe = Sampling(own, gaussian, NOISE)
    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler("UniPCMultistepScheduler"))):
        right = float((pipe(200) - ending(own)).norm() / ending(own).norm())
    pipe.scheduler = UniPCMultistepScheduler.from_config(own.config)
    naive = float((pipe(200) - ending(own)).norm() / ending(own).norm())
    print(f"relative error: {right:.4f}, from_config alone: {naive:.4f}")
    assert right < 0.02 < naive / 3
    table = pipe.seen[0].alphas_cumprod
    torch.testing.assert_close(table[:-1].double(), own.alphas_cumprod[:-1].double(), rtol=1e-3, atol=1e-6)


def test_ddim_does_not_begin_to_clip_where_the_old_scheduler_had_no_such_setting() -> None:
    own = EulerDiscreteScheduler(beta_schedule="scaled_linear")
    assert DDIMScheduler.from_config(own.config).config.clip_sample
    assert not DiffusersScheduler("DDIMScheduler").made_from(own).config.clip_sample


@pytest.mark.part(1)
@pytest.mark.parametrize(("steps", "gain"), [(10, 1.2), (16, 2.0), (20, 3.0)])
def test_karras_spacing_beats_ddim_on_an_exact_score(steps: int, gain: float) -> None:
    """Against the exact flow of a Gaussian mixture; evenly spaced timesteps gain little or nothing."""
    own = DDIMScheduler(**BETAS, timestep_spacing="linspace")
    sigma = float(((1 - own.alphas_cumprod[-1]) / own.alphas_cumprod[-1]) ** 0.5)
    start, end = sigma / (1 + sigma), 1e-3
    x = mixture.noise(32).float()
    common = x.double() * (1 + sigma**2) ** 0.5 / (1 + sigma)
    truth = mixture.clean_estimate(mixture.exact((start, end), common), end)

    def error(method: DiffusersScheduler | None) -> float:
        pipe = Sampling(own, mixture.clean_estimate, x)
        with accel.accelerate(pipe, accel.Recipe(sampler=method)):
            return float((pipe(steps) - truth).norm() / truth.norm())

    errors = {
        "DDIM": error(None),
        "DPM-Solver++": error(DiffusersScheduler()),
        "DPM-Solver++, Karras": error(DiffusersScheduler(spacing="karras")),
        "UniPC, Karras": error(DiffusersScheduler("UniPCMultistepScheduler", spacing="karras")),
    }
    print({name: f"{value:.4f}" for name, value in errors.items()})
    assert errors["DPM-Solver++, Karras"] * gain < errors["DDIM"]
    assert errors["UniPC, Karras"] * gain < errors["DDIM"]


# Refused


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (FlowMatchEulerDiscreteScheduler(), "PseudoCorrector"),
        (UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), "PseudoCorrector"),
        (LCMScheduler(), "FixedInterval"),
        (EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"), "PseudoCorrector"),
        (DDIMScheduler(thresholding=True), "FixedInterval"),
        (source("CogVideoXDDIMScheduler", "v_prediction"), "one of DPMSolverMultistepScheduler, UniPCMultistep"),
        (DDIMScheduler(**BETAS, **ZERO), "one of DDIMScheduler"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_is_not_in_the_table_is_refused_in_one_sentence(own: Any, words: str) -> None:
    parts = {"unet": torch.nn.Linear(1, 1), "scheduler": own}
    pipe = type("Pipe", (), {"components": parts, "config": type("C", (), {}), "__call__": lambda self: None})()
    pipe.config._name_or_path = ""
    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler("DEISMultistepScheduler"))) as session:
        lever = session._levers[0]
        assert type(lever).__name__ == "InactiveLever"
        assert "DEISMultistepScheduler in place of" in lever.reason and words in lever.reason
        assert lever.reason.endswith(".") and "\n" not in lever.reason


def test_spacing_in_sigma_is_refused_where_sigma_is_infinite() -> None:
    with accel.accelerate(pipeline("cogvideox"), accel.Recipe(sampler=DiffusersScheduler(spacing="karras"))) as session:
        assert torch.equal(run(pipeline("cogvideox"), TINY["cogvideox"]), plain("cogvideox"))
    assert session.report().levers[0].reason == (
        "This model starts from pure noise, where karras spacing would put half of the steps: "
        "take one of own, leading, linspace, trailing."
    )


def test_flow_pipelines_are_left_as_they_are() -> None:
    with accel.accelerate(pipeline("sd3"), accel.Recipe(sampler=DiffusersScheduler())) as session:
        assert torch.equal(run(pipeline("sd3"), TINY["sd3"]), plain("sd3"))
    assert not session.report().levers[0].engaged


def test_wrong_parameters_are_refused_in_one_sentence() -> None:
    for wrong in ({"scheduler": "LCMScheduler"}, {"scheduler": "DDIMScheduler", "spacing": "karras"}, {"spacing": "x"}):
        with pytest.raises(ValueError) as refused:
            DiffusersScheduler(**wrong)
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


# In pipelines


@pytest.mark.part(1)
@pytest.mark.parametrize("name", SWAPPED)
def test_it_is_the_pipeline_with_that_scheduler(name: str) -> None:
    """The same as exchanging it by hand, and the pipeline's own again between calls."""
    method = DiffusersScheduler("UniPCMultistepScheduler", "own" if name == "cogvideox" else "karras")
    pipe, by_hand = TINY[name].build(), TINY[name].build()
    by_hand.scheduler = method.made_from(by_hand.scheduler)
    expected, own, config = run(by_hand, TINY[name]), pipe.scheduler, pipe.config
    with accel.accelerate(pipe, accel.Recipe(sampler=method)) as session:
        for _ in range(2):
            assert torch.equal(run(pipe, TINY[name]), expected)
            assert pipe.scheduler is own and pipe.config is config
    lever = session.report().levers[0]
    assert lever.engaged and lever.reason.startswith("UniPCMultistepScheduler made the 8 updates")


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sdxl", "sd", "cogvideox"])
def test_restore_gives_the_pipeline_back_also_after_an_exception(name: str) -> None:
    pipe, tiny = TINY[name].build(), TINY[name]
    run(pipe, tiny)
    before, own = snapshot(pipe), pipe.scheduler

    def fail(*_: Any) -> Any:
        assert pipe.scheduler is not own
        raise InterruptedError

    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler())):
        expected = run(pipe, tiny)
        with pytest.raises(InterruptedError):
            run(pipe, tiny, callback_on_step_end=fail)
        assert pipe.scheduler is own
        assert torch.equal(run(pipe, tiny), expected)
    assert pipe.scheduler is own and traces(pipe) == []
    after = snapshot(pipe)
    assert {path for path in after if after[path] != before[path]} <= {"pipe"}  # what a call leaves by itself
    assert torch.equal(run(pipe, tiny), plain(name))


def test_another_scheduler_set_between_calls_is_followed() -> None:
    pipe, tiny = TINY["sdxl"].build(), TINY["sdxl"]
    method = DiffusersScheduler(spacing="karras")
    with accel.accelerate(pipe, accel.Recipe(sampler=method)):
        run(pipe, tiny)
        pipe.scheduler = other = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
        found = run(pipe, tiny)
        assert pipe.scheduler is other
        pipe.scheduler = FlowMatchEulerDiscreteScheduler()
        copied = copy.deepcopy(pipe.scheduler.config)
        assert pipe.scheduler.config == copied
    by_hand = TINY["sdxl"].build()
    by_hand.scheduler = method.made_from(other)
    assert torch.equal(found, run(by_hand, tiny))


def test_a_scheduler_that_is_set_within_a_call_stays() -> None:
    pipe, tiny = TINY["sdxl"].build(), TINY["sdxl"]
    other = EulerDiscreteScheduler.from_config(pipe.scheduler.config)

    def exchange(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 7:
            pipe.scheduler = other
        return tensors

    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler())):
        run(pipe, tiny, callback_on_step_end=exchange)
        assert pipe.scheduler is other


def test_a_loop_of_ones_own_finds_it_too() -> None:
    pipe = Sampling(DDIMScheduler(**BETAS), gaussian, NOISE)
    own = pipe.scheduler
    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler())) as session:
        with session.running():
            assert type(pipe.scheduler) is DPMSolverMultistepScheduler
        assert pipe.scheduler is own
        with pytest.raises(InterruptedError):
            pipe(fail=True)
        assert pipe.scheduler is own


@pytest.mark.usefixtures("quick_collection")
def test_a_kept_session_keeps_no_pipeline() -> None:
    pipe = TINY["sdxl"].build()
    gone = weakref.ref(pipe.unet)
    session = accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler()))
    run(pipe, TINY["sdxl"])
    del pipe
    gc.collect()
    assert gone() is None and session.pipe is None


def test_other_levers_see_the_scheduler_that_is_there() -> None:
    pipe = pipeline("sdxl")
    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler())) as session:
        assert session.anatomy.schedulers == {"scheduler": "DPMSolverMultistepScheduler"}
        assert session.anatomy.depth == 2
    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler("EulerDiscreteScheduler"))) as session:
        assert session.anatomy.depth == 1


def test_our_noise_levels_and_fewer_steps_go_with_it() -> None:
    pipe = pipeline("sdxl")
    with accel.accelerate(pipe, accel.Recipe(sampler=DiffusersScheduler(sigmas=Karras(), steps=0.5))) as session:
        assert torch.isfinite(run(pipe, TINY["sdxl"])).all()
    assert session.report().steps == 4
    assert session.report().levers[0].reason == (
        "DPMSolverMultistepScheduler made the 4 updates; 4 steps in place of 8; noise levels of Karras()"
    )


@pytest.mark.parametrize(
    "method", [DiffusersScheduler(), DiffusersScheduler("DEISMultistepScheduler", "karras")], ids=str
)
def test_recipes_keep_them(method: DiffusersScheduler) -> None:
    assert accel.Recipe.from_dict(accel.Recipe(sampler=method).to_dict()) == accel.Recipe(sampler=method)


def test_a_recipe_without_one_exchanges_nothing() -> None:
    pipe = Sampling(DDIMScheduler(**BETAS), gaussian, NOISE)
    for sampler in (SchedulerSolver(), PseudoCorrector(), None):
        with accel.accelerate(pipe, accel.Recipe(sampler=sampler)):
            pipe(4)
        assert pipe.seen[-1] is pipe.scheduler
