"""Solvers in place of a pipeline's own update: the same where they are the same formula, and gone without a trace."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

import accel
from accel.caching import Extrapolate, FixedInterval
from accel.parametrization import flow_time, point_of, scale_of
from accel.patch import Wrapper
from accel.samplers import AdamsBashforth, DPMSolver, Euler, PseudoCorrector, Sampler, SchedulerSolver, UniPC
from tests.accel.residue import snapshot, traces
from tests.accel.witness import pipeline, plain
from tests.tiny import TINY, run
from tests.tiny.kinds import crossed, kinds_only

# Tiny pipelines by what their schedulers do.
EULER_OTHERS = ["sdxl", "svd", "animatediff", "cogvideox"]  # epsilon, v; exploding, preserving, zero terminal SNR
MULTISTEP = ["wan", "wan_token_timesteps", "wan_i2v", "pixart", "sana"]
IDLE = ["sd", "cogvideox_dpm"]  # PNDM evaluates twice at one level; CogVideoX's own DPM adds noise
EULER_FLOWS = [name for name in TINY if name not in (*EULER_OTHERS, *MULTISTEP, *IDLE)]  # mochi's is inverted
HISTORY: dict[str, Sampler] = {
    "pseudo-corrector": PseudoCorrector(),
    "Adams-Bashforth": AdamsBashforth(3),
    "DPM-Solver++": DPMSolver(),
    "UniPC": UniPC(),
}


def sampled(name: str, sampler: Sampler | None, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipeline(name), accel.Recipe(sampler=sampler)) as session:
        return run(pipeline(name), TINY[name], **options), session.report()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_all_that_are_in_no_other_group_have_the_euler_scheduler_of_flows() -> None:
    """Not asked where the groups are made, which every worker does before its first test."""
    assert [name for name in TINY if type(pipeline(name).scheduler) is FlowMatchEulerDiscreteScheduler] == EULER_FLOWS


@pytest.mark.part(2)
@pytest.mark.parametrize("name", EULER_FLOWS)
def test_euler_is_the_flow_schedulers_own_update_bit_for_bit(name: str) -> None:
    output, report = sampled(name, Euler())
    # 1 - (1 - sigma) is not always sigma: an inverted flow is right to the last digit only.
    assert torch.equal(output, plain(name)) if name != "mochi" else relative(output, plain(name)) < 1e-6
    assert report.levers[0].engaged and "updates replaced" in report.levers[0].reason


@pytest.mark.part(2)
@pytest.mark.parametrize("name", EULER_OTHERS)
def test_euler_is_the_update_of_epsilon_and_v_schedulers_to_rounding(name: str) -> None:
    assert relative(sampled(name, Euler())[0], plain(name)) < 3e-6


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("name", "solver"), [("wan", UniPC()), ("wan_i2v", UniPC()), ("sana", DPMSolver()), ("pixart", DPMSolver())]
)
def test_solvers_that_diffusers_has_are_the_same_as_there_in_a_pipeline(name: str, solver: Sampler) -> None:
    assert relative(sampled(name, solver, steps=16)[0], plain(name, steps=16)) < 1e-5


@pytest.mark.part(3)
@crossed("solver", HISTORY)
def test_every_pipeline_runs_with_every_solver_or_says_why_not(name: str, solver: str) -> None:
    output, report = sampled(name, HISTORY[solver])
    assert torch.isfinite(output).all() and output.shape == plain(name).shape
    lever = report.levers[0]
    if name in IDLE:
        assert not lever.engaged and "No solver can stand in" in lever.reason
        assert torch.equal(output, plain(name))
    else:
        made = 6 if name == "flux_img2img" else 8
        assert lever.engaged and lever.reason == f"{made} of {made} updates replaced"
        assert relative(output, plain(name)) > 0 or (name, solver) in SAME


SAME = {("wan", "UniPC"), ("wan_i2v", "UniPC"), ("sana", "DPM-Solver++"), ("pixart", "DPM-Solver++")}


# Step for step against diffusers' own multistep schedulers


def answer(kind: str, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """A denoiser of one line that bends with the sample and the noise level."""
    return torch.tanh(x * (1.0 + 0.3 * sigma / (1 + sigma))) + (0.2 if kind == "epsilon" else -0.1) * x


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "epsilon": (UniPCMultistepScheduler, {}),
    "v": (UniPCMultistepScheduler, {"prediction_type": "v_prediction"}),
    "sample": (UniPCMultistepScheduler, {"prediction_type": "sample"}),
    "flow": (
        UniPCMultistepScheduler,
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    ),
    "karras": (UniPCMultistepScheduler, {"use_karras_sigmas": True}),
    "sigma_min": (UniPCMultistepScheduler, {"final_sigmas_type": "sigma_min"}),
}


@pytest.mark.part(10)
@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("steps", [6, 16])
@pytest.mark.parametrize("solver", [UniPC(1), UniPC(2), UniPC(3), DPMSolver(1), DPMSolver(2)], ids=str)
def test_multistep_solvers_agree_with_diffusers_step_for_step(kind: str, steps: int, solver: Any) -> None:
    """After each update, not at the end alone, and from the same sample."""
    family, settings = SCHEDULERS[kind]
    if isinstance(solver, DPMSolver):
        family, settings = DPMSolverMultistepScheduler, settings | {"euler_at_final": True}
    scheduler = family(**settings, solver_order=solver.order, beta_schedule="scaled_linear")
    scheduler.set_timesteps(steps)
    flow = bool(settings.get("use_flow_sigmas"))
    kept: list[tuple[float, torch.Tensor]] = []
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for index, timestep in enumerate(scheduler.timesteps):
        sigma, following = scheduler.sigmas[index : index + 2].tolist()
        samples = "flow" if flow else "preserving"
        prediction = "flow" if flow else settings.get("prediction_type", "epsilon")
        output = answer(kind, x, sigma)
        point = point_of(x, output, sigma, samples, prediction)
        kept = [*kept, (flow_time(sigma, samples == "flow"), point.clean)][-solver.depth :]
        keep, weights, _ = solver.weights(
            [time for time, _ in kept], flow_time(following, samples == "flow"), steps - index
        )
        ours = keep * point.x + sum(w * clean for w, (_, clean) in zip(weights, kept, strict=True))
        x = scheduler.step(output, timestep, x, return_dict=False)[0]
        torch.testing.assert_close(ours * scale_of(following, samples), x, rtol=2e-5, atol=2e-5)


ZERO_TERMINAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.part(8)
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
        (FlowMatchEulerDiscreteScheduler, {"invert_sigmas": True}),
        (EulerDiscreteScheduler, {"beta_schedule": "scaled_linear"}),
        (EulerDiscreteScheduler, {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}),
        (DDIMScheduler, {"clip_sample": False, "beta_schedule": "scaled_linear"}),
        (DDIMScheduler, {"clip_sample": False, "prediction_type": "v_prediction", "set_alpha_to_one": False}),
        (DDIMScheduler, {"clip_sample": False, "prediction_type": "sample"}),
        (CogVideoXDDIMScheduler, ZERO_TERMINAL | {"prediction_type": "v_prediction"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_euler_is_the_schedulers_own_step_in_every_convention(
    family: Any, settings: dict[str, Any], dtype: Any
) -> None:
    """In half precision the scheduler rounds more often: we are as near to what it does in single precision."""
    pipe = Loop(family(**settings), dtype)
    expected = pipe(10)
    with accel.accelerate(pipe, accel.Recipe(sampler=Euler())) as session:
        found = pipe(10)
    assert session.report().levers[0].reason == "10 of 10 updates replaced"
    assert found.dtype == expected.dtype == dtype
    single = Loop(family(**settings))(10)
    if dtype == torch.float32:
        assert relative(found, single) < 2e-6
    else:
        assert relative(found.float(), single) < 1.2 * relative(expected.float(), single) + 1e-3


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


@pytest.mark.part(1)
@pytest.mark.parametrize("solver", HISTORY)
@pytest.mark.parametrize("second", [{"prediction_type": "v_prediction"}, FLOW])
def test_two_schedulers_of_one_class_have_each_the_facts_of_their_own_settings(
    second: dict[str, Any], solver: str
) -> None:
    settings: list[dict[str, Any]] = [{"use_karras_sigmas": True}, second]
    expected = [solved(Loop(DPMSolverMultistepScheduler(**each)), HISTORY[solver])[0] for each in settings]
    for order in (settings, settings[::-1]):
        pair = Pair(*(DPMSolverMultistepScheduler(**each) for each in order))
        found, report = solved(pair, HISTORY[solver])
        assert report.levers[0].reason == "20 of 20 updates replaced"
        right = expected if order is settings else expected[::-1]
        assert all(torch.equal(one, other) for one, other in zip(found, right, strict=True))


def solved(pipe: Any, sampler: Sampler) -> tuple[Any, accel.Report]:
    with accel.accelerate(pipe, accel.Recipe(sampler=sampler)) as session:
        return pipe(10), session.report()


class Pair:
    """A pipeline with two schedulers that run one after the other."""

    def __init__(self, first: Any, second: Any) -> None:
        self.loops = [Loop(first), Loop(second)]
        self.loops[1].unet = self.loops[0].unet
        self.config = self.loops[0].config

    @property
    def components(self) -> dict[str, Any]:
        first, second = (loop.scheduler for loop in self.loops)
        return {"unet": self.loops[0].unet, "first": first, "second": second}

    def __call__(self, num_inference_steps: int = 10) -> list[torch.Tensor]:
        return [loop(num_inference_steps) for loop in self.loops]


class Loop:
    """The smallest pipeline: a one-line denoiser and the loop that diffusers' pipelines have."""

    def __init__(self, scheduler: Any, dtype: torch.dtype = torch.float32, return_dict: bool = False) -> None:
        self.scheduler, self.unet, self.config = scheduler, OneLine(), type("Config", (), {"_name_or_path": ""})()
        self.dtype, self.return_dict, self.results = dtype, return_dict, []

    @property
    def components(self) -> dict[str, Any]:
        return {"unet": self.unet, "scheduler": self.scheduler}

    def __call__(self, num_inference_steps: int = 10, **options: Any) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).to(self.dtype)
        x = x * getattr(self.scheduler, "init_noise_sigma", 1.0)
        self.results = []
        for timestep in self.scheduler.timesteps:
            seen = self.scheduler.scale_model_input(x, timestep) if hasattr(self.scheduler, "scale_model_input") else x
            output = self.unet(seen, timestep)[0]
            result = self.scheduler.step(output, timestep, x, return_dict=self.return_dict, **options)
            self.results.append(result)
            x = result.prev_sample if self.return_dict else result[0]
        return x


class OneLine(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.tanh(sample) + 0.3 * sample,)


def test_output_objects_keep_their_type_and_their_other_fields() -> None:
    pipe = Loop(EulerDiscreteScheduler(beta_schedule="scaled_linear"), return_dict=True)
    with accel.accelerate(pipe, accel.Recipe(sampler=PseudoCorrector())):
        final = pipe()
    assert {type(result).__name__ for result in pipe.results} == {"EulerDiscreteSchedulerOutput"}
    assert all(result.pred_original_sample is not None for result in pipe.results)
    tuples = Loop(EulerDiscreteScheduler(beta_schedule="scaled_linear"))
    with accel.accelerate(tuples, accel.Recipe(sampler=PseudoCorrector())):
        assert torch.equal(tuples(), final)
    assert all(isinstance(result, tuple) and len(result) == 2 for result in tuples.results)


def test_the_schedulers_own_random_updates_are_left_to_it() -> None:
    """DDIM with eta adds noise at every step; its generator draws what it would have drawn."""
    pipe = Loop(DDIMScheduler(clip_sample=False))
    expected = pipe(eta=0.5, generator=torch.Generator().manual_seed(3))
    with accel.accelerate(pipe, accel.Recipe(sampler=PseudoCorrector())) as session:
        found = pipe(eta=0.5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(found, expected)
    assert not session.report().levers[0].engaged
    assert (
        session.report().levers[0].reason == "0 of 10 updates replaced (with eta the pipeline asks for another update)"
    )


@pytest.mark.parametrize(
    "scheduler",
    [
        EulerAncestralDiscreteScheduler(),
        DDIMScheduler(clip_sample=True),
        FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
        DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_schedulers_that_are_no_plain_solver_are_left_alone_with_a_reason(scheduler: Any) -> None:
    pipe = Loop(scheduler)
    with accel.accelerate(pipe, accel.Recipe(sampler=UniPC())) as session:
        pipe()
    lever = session.report().levers[0]
    assert not lever.engaged
    assert type(scheduler).__name__ in lever.reason and "No solver can stand in" in lever.reason


# The history


@dataclass
class Update:
    """One `scheduler.step` as the pipeline saw it."""

    sample: torch.Tensor
    output: torch.Tensor
    result: torch.Tensor
    sigma: float
    following: float


@contextmanager
def updates(pipe: Any) -> Iterator[list[Update]]:
    """Notes what goes into `scheduler.step` and what comes out, from outside of accel's layers."""
    seen: list[Update] = []
    scheduler = pipe.scheduler
    layered = scheduler.step

    @functools.wraps(layered)
    def step(output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        given = output.clone(), sample.clone()
        result = layered(output, timestep, sample, *args, **kwargs)
        index = scheduler.step_index - 1
        sigma, following = scheduler.sigmas[index : index + 2].tolist()
        seen.append(Update(given[1], given[0], result[0].clone(), sigma, following))
        return result

    scheduler.__dict__["step"] = step
    try:
        with pytest.MonkeyPatch.context() as below:  # else the layer goes on top again when the run begins
            below.setattr(Wrapper, "on_top", lambda layer: layer)
            yield seen
    finally:
        scheduler.__dict__["step"] = layered


def check_pseudo_corrector(seen: list[Update], begins: set[int]) -> None:
    """Every result is the formula, with no history at the steps in `begins`."""
    for index, update in enumerate(seen):
        expected = update.sample + (update.following - update.sigma) * update.output
        if index not in begins:
            before = seen[index - 1]
            expected = expected + (before.following - before.sigma) / 2 * (update.output - before.output)
        torch.testing.assert_close(update.result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.part(2)
@pytest.mark.parametrize(
    ("name", "steps", "begins"),
    [
        ("flux", 8, {0}),
        ("flux_img2img", 6, {0}),  # enters at position 2 of 8
        ("wan_two_experts", 8, {0, 3}),  # the second expert answers from step 3 on
        ("qwen_image", 8, {0}),
    ],
)
def test_results_are_the_formula_and_the_history_ends_with_an_expert(name: str, steps: int, begins: set[int]) -> None:
    pipe = TINY[name].build()
    with accel.accelerate(pipe, accel.Recipe(sampler=PseudoCorrector())), updates(pipe) as seen:
        run(pipe, TINY[name])
    assert len(seen) == steps
    check_pseudo_corrector(seen, begins)


def test_what_a_pipeline_changes_between_steps_is_kept() -> None:
    """An inpainting pipeline puts known latents back after every step; the next update starts from those."""
    pipe = TINY["flux"].build()

    def mask(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": values["latents"] * 0.5}

    with accel.accelerate(pipe, accel.Recipe(sampler=PseudoCorrector())), updates(pipe) as seen:
        run(pipe, TINY["flux"], callback_on_step_end=mask)
    check_pseudo_corrector(seen, {0})
    torch.testing.assert_close(seen[4].sample, seen[3].result * 0.5)


@pytest.mark.slow  # test_contract.py has it of caches and of guidance; solvers are elementwise
@pytest.mark.part(1)
@crossed("solver", HISTORY, ["wan", "sdxl", "flux", "cogvideox"], kinds=["wan"])
def test_a_batch_of_three_is_three_single_runs(name: str, solver: str) -> None:
    batch, _ = sampled(name, HISTORY[solver], batch=3)
    for sample in range(3):
        alone, _ = sampled(name, HISTORY[solver], seed=sample, prompt=sample)
        assert relative(batch[sample : sample + 1], alone) < 1e-4


# Runs one after another, and ends


@pytest.mark.part(1)
@crossed("solver", HISTORY, ["wan", "sdxl", "flux_img2img", "animatediff"], kinds=())
def test_a_session_starts_anew_with_every_call(name: str, solver: str) -> None:
    asked: list[dict[str, Any]] = [{}, {"size": "other"}, {"steps": 5, "prompt": 1}, {"batch": 3}, {}]
    fresh = [sampled(name, HISTORY[solver], **options)[0] for options in asked[:-1]]
    with accel.accelerate(pipeline(name), accel.Recipe(sampler=HISTORY[solver])):
        again = [run(pipeline(name), TINY[name], **options) for options in asked]
    assert all(torch.equal(one, other) for one, other in zip(again, [*fresh, fresh[0]], strict=True))
    assert torch.equal(run(pipeline(name), TINY[name]), plain(name))


class Stop(Exception):
    pass


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "flux", "sdxl"])
def test_an_exception_leaves_nothing_for_the_next_run(name: str) -> None:
    pipe = TINY[name].build()

    def stop(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == 3:
            raise Stop
        return values

    before = snapshot(pipe)
    with accel.accelerate(pipe, accel.Recipe(sampler=UniPC(3))):
        with pytest.raises(Stop):
            run(pipe, TINY[name], callback_on_step_end=stop)
        assert torch.equal(run(pipe, TINY[name]), sampled(name, UniPC(3))[0])
    assert torch.equal(run(pipe, TINY[name]), plain(name))
    assert not traces(pipe)
    assert snapshot(pipe).keys() == before.keys()


def attributes(pipe: Any) -> dict[str, set[str]]:
    """Names of the attributes of all parts. A run changes some values of a scheduler's, whoever makes its updates."""
    return {name: set(vars(part)) for name, part in pipe.components.items() if hasattr(part, "__dict__")}


@pytest.mark.part(1)
@kinds_only()
def test_restored_is_bit_identical_without_residue(name: str) -> None:
    pipe = TINY[name].build()
    run(pipe, TINY[name], steps=2)
    before = {
        part: vars(component).keys() for part, component in pipe.components.items() if hasattr(component, "__dict__")
    }
    session = accel.accelerate(pipe, accel.Recipe(sampler=UniPC()))
    run(pipe, TINY[name])
    session.restore()
    assert not traces(pipe)
    after = {
        part: vars(component).keys() for part, component in pipe.components.items() if hasattr(component, "__dict__")
    }
    assert before == after
    assert torch.equal(run(pipe, TINY[name]), plain(name))


def test_two_pipelines_that_share_a_scheduler_have_each_their_own_update() -> None:
    pipe = TINY["flux"].build()
    other = type(pipe)(**pipe.components)
    other.set_progress_bar_config(disable=True)
    with accel.accelerate(pipe, accel.Recipe(sampler=PseudoCorrector())):
        assert torch.equal(run(other, TINY["flux"]), plain("flux"))
        assert torch.equal(run(pipe, TINY["flux"]), sampled("flux", PseudoCorrector())[0])


# Steps, and other levers


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl", "flux", "animatediff"])
def test_a_share_of_the_steps_is_the_run_with_fewer_steps(name: str) -> None:
    seen: list[int] = []

    def note(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(pipe.num_timesteps)
        return values

    output, report = sampled(name, SchedulerSolver(steps=0.4), steps=20, callback_on_step_end=note)
    assert torch.equal(output, plain(name, steps=8))
    assert seen == [8] * 8
    assert report.steps == 8
    assert report.levers[0].engaged and report.levers[0].reason == "8 steps in place of 20"


def test_a_share_of_the_steps_leaves_image_to_image_its_strength() -> None:
    output, report = sampled("flux_img2img", SchedulerSolver(steps=0.5), steps=16)
    assert torch.equal(output, plain("flux_img2img", steps=8))
    assert report.steps == 6


def test_the_steps_of_a_call_that_names_none_are_a_share_of_the_default() -> None:
    pipe = Loop(FlowMatchEulerDiscreteScheduler())
    with accel.accelerate(pipe, accel.Recipe(sampler=Euler(steps=0.5))) as session:
        pipe()
    assert session.report().steps == 5


def test_forecasts_are_corrected_afterwards_where_updates_are_linear_in_the_answers() -> None:
    """The cache must know the update: the scheduler's own, or the solver's in its place."""
    cache = FixedInterval(2, predictor=Extrapolate(1, corrector=2), warmup=2, min_steps=1)

    def reasons(name: str, sampler: Sampler | None) -> str:
        with accel.accelerate(pipeline(name), accel.Recipe(cache=cache, sampler=sampler)) as session:
            run(pipeline(name), TINY[name])
        return " ".join(call.reason for call in session.report().calls)

    assert "corrects the last" in reasons("flux", None)
    assert "corrects the last" in reasons("flux", PseudoCorrector())
    assert "corrects the last" in reasons("wan", None)  # diffusers' UniPC
    assert "corrects the last" in reasons("wan", Euler())
    assert "corrects the last" in reasons("sdxl", UniPC())
    assert "corrects the last" in reasons("sd", None)  # PNDM
    assert "corrects the last" in reasons("sd", Euler())  # idle, so the scheduler is what it was


def test_a_solver_and_a_cache_compose() -> None:
    cache = FixedInterval(2, predictor=Extrapolate(1), warmup=2, min_steps=1)
    with accel.accelerate(pipeline("flux"), accel.Recipe(cache=cache, sampler=PseudoCorrector())) as session:
        output = run(pipeline("flux"), TINY["flux"], steps=16)
    alone, _ = sampled("flux", PseudoCorrector(), steps=16)
    assert session.report().predicted > 4
    assert 0 < relative(output, alone) < 0.1


@pytest.mark.parametrize("solver", HISTORY)
def test_recipes_are_plain_data(solver: str) -> None:
    recipe = accel.Recipe(sampler=HISTORY[solver])
    assert accel.Recipe.from_dict(recipe.to_dict()) == recipe
