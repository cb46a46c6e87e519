"""Every scheduler class of diffusers is asked what it does, and its answers are held against what it then does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import accel
from accel import Extrapolate, FixedInterval
from accel.levels_reached import levels_reached
from accel.parametrization import clean_from_output
from accel.schedulers import SchedulerAnatomy, scheduler_anatomy
from accel.timetable import Timetable
from accel.update import Deep, Unknown, measure_updates, on_cpu
from tests.formula import FormulaPipeline
from tests.schedulers import SCHEDULERS

NAMES = sorted(SCHEDULERS)

# What cannot be corrected under which schedulers, and why: everything else is.
UNCORRECTABLE = {
    "starts from fresh noise": {"FlowMatchLCMScheduler", "LCMScheduler", "flow stochastic"},
    "not linear": {"CMStochasticIterativeScheduler", "ddim clipped", "ddim thresholded"},
    "more than 5 outputs": {"IPNDMScheduler", "PNDMScheduler"},
    "alone": {
        "CogVideoXDPMScheduler", "DDPMWuerstchenScheduler", "HeliosDMDScheduler", "HeliosScheduler", "PiflowScheduler",
        "RePaintScheduler", "SCMScheduler",
    },
}  # fmt: skip
RANDOM = {
    "DDPMParallelScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler",
    "FlowMatchLCMScheduler", "KDPM2AncestralDiscreteScheduler", "LCMScheduler", "LTXEulerAncestralRFScheduler",
    "SASolverScheduler", "TCDScheduler", "UnCLIPScheduler", "dpm sde", "flow stochastic",
}  # fmt: skip
# Under a formula the second stages of KDPM2 ancestral diverge, with rounding errors as large as what is looked for.
CORRECTABLE = [
    name
    for name in NAMES
    if not any(name in names for names in UNCORRECTABLE.values()) and name != "KDPM2AncestralDiscreteScheduler"
]

PREDICTIONS = {
    "EDMEulerScheduler": "inverted_v_prediction",
    "EDMDPMSolverMultistepScheduler": "inverted_v_prediction",
    "edm v": "v_prediction",
    "ddim v": "v_prediction",
    "ddim v from pure noise": "v_prediction",
    "unipc v": "v_prediction",
    "euler v": "v_prediction",
    "ddim sample": "sample",
    "euler sample": "sample",
    "FlowMatchEulerDiscreteScheduler": "flow",
    "FlowMatchHeunDiscreteScheduler": "flow",
    "FlowMapEulerDiscreteScheduler": "flow",
    "LTXEulerAncestralRFScheduler": "flow",
    "ltx without noise": "flow",
    "unipc flow": "flow",
    "dpm flow": "flow",
    "MiniMaxH3Scheduler": "inverted_flow",
    "flow inverted": "inverted_flow",
    "DDIMScheduler": "epsilon",
    "DPMSolverMultistepScheduler": "epsilon",
    "HeunDiscreteScheduler": "epsilon",
}


def timed(name: str, steps: int = 12) -> Any:
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(steps)
    return scheduler


def anatomy(name: str) -> SchedulerAnatomy:
    return scheduler_anatomy(SCHEDULERS[name]())


@pytest.mark.part(10)
@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_corrected_or_one_true_clause_says_why_not(name: str) -> None:
    reason = anatomy(name).uncorrectable
    expected = next((clause for clause, names in UNCORRECTABLE.items() if name in names), "")
    assert (expected in reason) if expected else not reason
    assert anatomy(name).random == (name in RANDOM)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_what_the_output_is_is_read_off_where_it_leads(name: str) -> None:
    assert anatomy(name).prediction == PREDICTIONS[name]


@pytest.mark.part(10)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNCORRECTABLE["alone"]])
def test_the_map_gives_what_the_scheduler_gives_for_random_outputs(name: str) -> None:
    scheduler = timed(name)
    before = torch.random.get_rng_state()
    try:
        influence = measure_updates(on_cpu(scheduler)).influence
    except Deep as deep:
        influence = deep.influence
    except Unknown:
        assert name in UNCORRECTABLE["not linear"]
        return
    assert torch.equal(torch.random.get_rng_state(), before)
    assert getattr(scheduler, "_step_index", None) is None
    outputs = _outputs(len(influence))
    torch.manual_seed(0)
    noise = _walked(timed(name), torch.zeros_like(outputs))
    expected = torch.einsum("sj,jcn->scn", torch.from_numpy(influence), outputs)
    torch.manual_seed(0)
    found = _walked(scheduler, outputs) - noise
    assert float((found - expected).norm() / expected.norm()) < 2e-6
    assert bool(noise.any()) == (name in RANDOM)


def test_to_ask_one_that_adds_noise_seeds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's generator is put back; `torch.manual_seed` would also seed all others, and leave them so."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    assert measure_updates(on_cpu(timed("DDPMScheduler"))).random
    assert seeds == []


def _outputs(steps: int) -> torch.Tensor:
    """The sample at the start and the outputs of all steps, (steps + 1, C, N)."""
    return torch.randn(steps + 1, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def _walked(scheduler: Any, outputs: torch.Tensor) -> torch.Tensor:
    outputs = outputs[:, None, :, :, None]
    sample, samples = outputs[0], []
    for timestep, output in zip(list(scheduler.timesteps), outputs[1:], strict=True):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0].double()
        samples.append(sample[0, :, :, 0])
    return torch.stack(samples)


@pytest.mark.part(2)
@pytest.mark.parametrize("name", CORRECTABLE)
def test_a_corrected_run_ends_where_the_plain_one_does_if_the_answers_are_a_parabola(name: str) -> None:
    """Whatever was forecast in between: here the last answer, held."""
    degree = 1 if name in RANDOM else 2
    pipe = FormulaPipeline(SCHEDULERS[name](), degree=degree)
    plain = pipe()
    ends = {}
    for corrector in (0, degree):
        cache = FixedInterval(3, warmup=4, final=2, predictor=Extrapolate(0, corrector=corrector, space=pipe.space))
        with accel.accelerate(pipe, cache=cache) as session:
            ends[corrector] = float((pipe() - plain).norm() / plain.norm())
        assert session.report().predicted > 5
        assert "not corrected" not in session.report().levers[0].reason
    assert ends[0] > 1e-4
    assert ends[degree] < 1e-6  # 120 dB


@pytest.mark.parametrize(
    ("name", "steps", "beyond"), [("DDIMScheduler", 30, 0.0), ("ddim trailing", 30, 1e-3), ("ddim linspace", 50, 1e-2)]
)
def test_a_noise_level_that_is_reached_may_not_be_the_next_of_the_timetable(
    name: str, steps: int, beyond: float
) -> None:
    """DDIM goes to `t - 1000 // n`, and its next timestep may be another."""
    table = Timetable(timed(name, steps))
    found = levels_reached(table, "epsilon", "preserving")
    apart = max(abs(a - b) / b for a, b in zip(found[:-1], table.sigmas[1:], strict=True))
    assert apart == pytest.approx(0.0, abs=1e-6) if not beyond else apart > beyond
    alphas = table.scheduler.alphas_cumprod.double()
    went = [int(timestep) - 1000 // steps for timestep in table.timesteps[:-1]]
    assert found[:-1] == pytest.approx([float(((1 - alphas[t]) / alphas[t]) ** 0.5) for t in went], rel=1e-4)


def test_edm_outputs_are_converted_as_the_scheduler_converts_them() -> None:
    """x0 = c_skip x + c_out F of `precondition_outputs`, here in units of the data's size."""
    scheduler = timed("EDMEulerScheduler")
    table, size = Timetable(scheduler), scheduler.config.sigma_data
    sample, output = torch.randn(2, 1, 1, 4, 4).double()
    for position in (0, 5, 10):
        scaled = scheduler.precondition_inputs(sample, scheduler.sigmas[position])
        expected = scheduler.precondition_outputs(sample, output, scheduler.sigmas[position]) / size
        found = clean_from_output(output, scaled, table.sigmas[position], "inverted_v_prediction")
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


def test_a_scheduler_that_takes_its_levels_from_its_pipeline_is_asked_with_levels() -> None:
    """ACE-Step's has one training step, so that a timetable of its own is one level all along."""
    asked = scheduler_anatomy(FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0))
    assert asked == scheduler_anatomy(FlowMatchEulerDiscreteScheduler())
    assert not asked.uncorrectable and not asked.irreplaceable
