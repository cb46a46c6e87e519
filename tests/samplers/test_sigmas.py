"""Noise levels: the published numbers and formulas, and schedulers that are told them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers import AysSchedules

import accel
from accel.samplers import (
    AlignYourSteps,
    Beta,
    Exponential,
    Karras,
    PseudoCorrector,
    SchedulerSolver,
    Shift,
    Sigmas,
    SigmaTable,
    Sigmoid,
    Sway,
)
from accel.samplers.sigmas import (
    ALIGN_YOUR_STEPS,
    Grid,
    beta_quantiles,
    log_linear,
    shift_sigma,
    sway_time,
    unshift_sigma,
)
from accel.timetable import Timetable
from tests.accel.witness import pipeline, plain
from tests.tiny import TINY, run

OWN = Grid((1.0, 0.9, 0.7, 0.4, 0.1), flow=True, shift=3.0)
WIDE = Grid((14.6, 8.0, 4.0, 1.0, 0.3, 0.03), flow=False)


# The formulas


@pytest.mark.parametrize(
    ("setting", "schedule"),
    [("use_karras_sigmas", Karras()), ("use_exponential_sigmas", Exponential()), ("use_beta_sigmas", Beta())],
)
@pytest.mark.parametrize("family", [EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler])
def test_karras_exponential_and_beta_are_diffusers_formulas(family: Any, setting: str, schedule: Sigmas) -> None:
    if setting == "use_beta_sigmas":
        pytest.importorskip("scipy")
    own, theirs = family(), family(**{setting: True})
    own.set_timesteps(12)
    theirs.set_timesteps(12)
    found = schedule.levels(Grid(tuple(own.sigmas[:-1].tolist()), flow=False))
    np.testing.assert_allclose(found, theirs.sigmas[:-1].numpy(), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (0.5, 0.7), (2.0, 3.0), (1.0, 1.0)])
def test_beta_quantiles_are_those_of_scipy(alpha: float, beta: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    shares = np.linspace(0, 1, 33)
    np.testing.assert_allclose(beta_quantiles(shares, alpha, beta), stats.beta.ppf(shares, alpha, beta), atol=2e-5)


def test_uniform_beta_is_even_spacing() -> None:
    assert Beta(1.0, 1.0).levels(OWN) == pytest.approx([1.0, 0.775, 0.55, 0.325, 0.1])


@pytest.mark.parametrize(
    ("model", "published"),
    [("sd", "StableDiffusionSigmas"), ("sdxl", "StableDiffusionXLSigmas"), ("svd", "StableDiffusionVideoSigmas")],
)
def test_align_your_steps_has_the_numbers_of_diffusers_and_ends_above_zero(model: str, published: str) -> None:
    """diffusers lists the levels of the rounded training timesteps (0.113 is timestep 13 of SDXL, where the authors
    have 0.1114), and 0 at the end; to interpolate, the authors' last level is needed."""
    np.testing.assert_allclose(ALIGN_YOUR_STEPS[model][:-1], AysSchedules[published][:-1], rtol=1.5e-2)
    assert 0 < ALIGN_YOUR_STEPS[model][-1] < 0.03


@pytest.mark.parametrize("model", ["sd", "sdxl", "svd"])
def test_align_your_steps_is_the_table_at_ten_steps_and_interpolated_elsewhere(model: str) -> None:
    ten = AlignYourSteps(model).levels(Grid((1.0,) * 10, flow=False))
    assert ten == pytest.approx(ALIGN_YOUR_STEPS[model][:10])
    twenty = AlignYourSteps(model).levels(Grid((1.0,) * 20, flow=False))
    assert twenty[::2] == pytest.approx(ten)  # every second level, and between them the geometric mean
    assert twenty[1] == pytest.approx((ten[0] * ten[1]) ** 0.5)


@pytest.mark.parametrize(
    "schedule",
    [Karras(), Exponential(), Beta(), Shift(), Shift(5.0), Sway(), Sway(0.5), Sigmoid(), SigmaTable((1.0, 0.5, 0.2))],
)
@pytest.mark.parametrize("grid", [OWN, WIDE], ids=["flow", "wide"])
def test_every_schedule_falls_and_stays_above_zero(schedule: Sigmas, grid: Grid) -> None:
    levels = schedule.levels(grid)
    assert len(levels) == len(grid.levels)
    assert all(one > two for one, two in pairwise(levels)) and levels[-1] > 0


@pytest.mark.parametrize("schedule", [Karras(), Exponential(), Beta()])
def test_schedules_that_keep_the_ends_keep_them(schedule: Sigmas) -> None:
    levels = schedule.levels(WIDE)
    assert levels[0] == pytest.approx(14.6, rel=1e-4) and levels[-1] == pytest.approx(0.03, rel=1e-3)


def test_two_shifts_multiply_and_unshifting_undoes_one() -> None:
    for sigma in (0.1, 0.5, 0.9, 1.0):
        assert shift_sigma(shift_sigma(sigma, 2.0), 3.0) == pytest.approx(shift_sigma(sigma, 6.0))
        assert unshift_sigma(shift_sigma(sigma, 4.0), 4.0) == pytest.approx(sigma)


def test_shift_is_what_pipelines_that_pass_sigmas_get() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 5, 5))
    assert Shift().levels(OWN) == pytest.approx(scheduler.sigmas[:-1].tolist())


@pytest.mark.parametrize("s", [-1.0, -0.4, 0.0, 0.8, 1.75])
def test_sway_keeps_the_ends_and_the_order(s: float) -> None:
    warped = [sway_time(k / 50, s) for k in range(51)]
    assert warped[0] == pytest.approx(0.0) and warped[-1] == pytest.approx(1.0)
    assert all(two > one for one, two in pairwise(warped))


def test_sway_of_minus_one_is_the_papers_cosine_and_dense_near_noise() -> None:
    assert sway_time(0.5, -1.0) == pytest.approx(1 - 2**-0.5)
    levels = Sway(shift=1.0).levels(OWN)
    assert levels[0] - levels[1] < levels[-2] - levels[-1]


def test_a_sigmoid_keeps_the_ends_and_has_its_largest_steps_at_its_centre() -> None:
    levels = [*Sigmoid(0.5, 6.0, 6.0).levels(OWN), 0.0]
    steps = [before - after for before, after in pairwise(levels)]
    assert levels[0] == 1.0
    assert steps == pytest.approx(steps[::-1])  # one steepness and the centre in the middle: symmetric
    assert steps[len(steps) // 2] == max(steps) > 2 * steps[0]
    steeper = Sigmoid(0.6, 6.0, 20.0).levels(OWN)
    assert steeper[0] - steeper[1] > steeper[-1]  # steeper after the centre: smaller last steps


def test_the_shift_grows_with_the_square_root_of_the_size() -> None:
    """SD3's rule: at four times the pixels, twice the shift; a clip's pixels are those of all frames."""
    grid = Grid(OWN.levels, True, 3.0, {"height": 256, "width": 128})
    assert Shift(3.0, pixels=128 * 64).levels(grid) == pytest.approx(Shift(6.0).levels(OWN))
    clip = Grid(OWN.levels, True, 3.0, {"height": 64, "width": 64, "num_frames": 9})
    assert Shift(3.0, pixels=64 * 64).levels(clip) == pytest.approx(Shift(9.0).levels(OWN))
    with pytest.raises(ValueError, match="height and width"):
        Shift(3.0, pixels=4096).levels(OWN)


def test_a_table_keeps_its_ends_at_other_numbers_of_steps() -> None:
    table = SigmaTable((1.0, 0.8, 0.3))
    assert table.levels(Grid((1.0, 0.5, 0.1), True)) == [1.0, 0.8, 0.3]
    assert table.levels(OWN) == pytest.approx([1.0, 0.8**0.5, 0.8, 0.24**0.5, 0.3])
    assert log_linear((4.0, 1.0), 3) == pytest.approx([4.0, 2.0, 1.0])


@pytest.mark.parametrize("wrong", [(), (1.0,), (0.5, 1.0), (1.0, 1.0), (1.0, 0.0), (1.0, float("nan")), "ab"])
def test_tables_must_fall(wrong: Any) -> None:
    with pytest.raises(ValueError, match="falling noise levels"):
        SigmaTable(wrong)


# Schedulers that are told


def told(name: str, schedule: Sigmas, **options: Any) -> tuple[list[float], Any, torch.Tensor]:
    """The noise levels of the run as the clock counts them, the lever's report, and the output."""
    with accel.accelerate(pipeline(name), accel.Recipe(sampler=SchedulerSolver(sigmas=schedule))) as session:
        output = run(pipeline(name), TINY[name], **options)
    levels = Timetable(pipeline(name).scheduler).sigmas
    return levels, session.report().levers[0], output


TABLE = (1.0, 0.97, 0.9, 0.8, 0.6, 0.5, 0.3, 0.1)  # ends where LTX's scheduler does


@pytest.mark.part(1)
@pytest.mark.parametrize(
    "name", ["flux", "flux_img2img", "sd3", "qwen_image", "z_image", "ltx", "mochi", "hunyuan_video", "wan", "wan_i2v"]
)
def test_flow_schedulers_take_exactly_the_levels_asked_for(name: str) -> None:
    """Whatever their own shift: static, by resolution, stretched to an end, inverted, or UniPC's."""
    levels, report, output = told(name, SigmaTable(TABLE))
    assert levels == pytest.approx(TABLE, abs=1e-4)
    assert report.engaged and report.reason.startswith("noise levels of SigmaTable")
    assert torch.isfinite(output).all() and not torch.equal(output, plain(name))


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sdxl", "svd"])
def test_euler_takes_exactly_the_levels_asked_for(name: str) -> None:
    table = (2.0, 1.5, 1.0, 0.7, 0.4, 0.2, 0.1, 0.05)
    levels, report, output = told(name, SigmaTable(table))
    assert levels == pytest.approx(table, rel=1e-5)
    assert report.engaged and torch.isfinite(output).all()
    assert pipeline(name).scheduler.sigmas[-1] == 0


def test_schedulers_with_training_timesteps_take_the_nearest() -> None:
    table = (1.2, 1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1)
    levels, report, _ = told("pixart", SigmaTable(table))
    assert levels == pytest.approx(table, rel=0.05)
    assert report.engaged


def test_levels_that_fall_on_one_training_timestep_are_refused_with_a_reason() -> None:
    levels, report, output = told("pixart", SigmaTable((1.0, 0.9999, 0.9998, 0.9997, 0.9996, 0.9995, 0.9994, 0.5)))
    assert not report.engaged and "same training timesteps" in report.reason
    assert torch.equal(output, plain("pixart"))
    assert len(levels) == 8


def test_dynamic_shift_of_the_pipeline_is_the_default_of_shift() -> None:
    """Flux's pipeline passes evenly spaced sigmas and its own mu, which is what Shift() does."""
    levels, report, output = told("flux", Shift())
    assert report.engaged
    torch.testing.assert_close(output, plain("flux"), rtol=1e-4, atol=1e-4)
    assert levels[-1] > 0.1


@pytest.mark.part(3)
@pytest.mark.parametrize(
    ("name", "schedule", "reason"),
    [
        ("sana", Karras(), "chooses its noise levels itself"),  # DPM-Solver++ on flow sigmas takes none
        ("animatediff", Karras(), "chooses its noise levels itself"),
        ("cogvideox", Karras(), "chooses its noise levels itself"),
        ("sdxl", Shift(), "is for flow models"),
        ("sdxl", Sway(), "is for flow models"),
        ("flux", AlignYourSteps(), "no table for flow models"),
    ],
)
def test_schedules_that_a_scheduler_cannot_have_are_idle_with_a_reason(
    name: str, schedule: Sigmas, reason: str
) -> None:
    _, report, output = told(name, schedule)
    assert not report.engaged and reason in report.reason
    assert torch.equal(output, plain(name))


def test_levels_that_the_call_gives_itself_are_kept() -> None:
    sigmas = [1.0, 0.8, 0.5, 0.3]
    levels, report, output = told("flux", Karras(), steps=4, sigmas=sigmas)
    assert not report.engaged and "the call gives its own" in report.reason
    assert torch.equal(output, plain_with("flux", steps=4, sigmas=sigmas))
    assert len(levels) == 4


def plain_with(name: str, **options: Any) -> torch.Tensor:
    return run(TINY[name].build(), TINY[name], **options)


def test_a_scheduler_that_makes_something_else_of_them_gets_its_own_back() -> None:
    """LTX's stretches to a fixed end, so a table that ends elsewhere is stretched too, and that is what it says."""
    levels, report, _ = told("ltx", SigmaTable((1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2)))
    assert report.engaged
    assert levels[-1] == pytest.approx(0.1, abs=1e-4)
    assert levels[1] == pytest.approx(1 - 0.1 * 0.9 / 0.8, abs=1e-4)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["flux_img2img", "sdxl", "wan_two_experts"])
def test_a_solver_and_a_schedule_compose_and_leave_nothing(name: str) -> None:
    schedule = Karras() if name == "sdxl" else Sway()
    with accel.accelerate(pipeline(name), accel.Recipe(sampler=PseudoCorrector(sigmas=schedule))) as session:
        first = run(pipeline(name), TINY[name])
        other = run(pipeline(name), TINY[name], steps=5)
        again = run(pipeline(name), TINY[name])
        assert session.report().levers[0].engaged
    assert torch.equal(first, again) and torch.isfinite(other).all()
    assert torch.equal(run(pipeline(name), TINY[name]), plain(name))


def test_a_share_of_the_steps_and_a_schedule_compose() -> None:
    with accel.accelerate(pipeline("flux"), accel.Recipe(sampler=SchedulerSolver(steps=0.5, sigmas=Shift(5.0)))) as one:
        half = run(pipeline("flux"), TINY["flux"], steps=16)
        assert one.report().steps == 8
    levels, _, whole = told("flux", Shift(5.0))
    assert len(levels) == 8
    assert torch.equal(half, whole)


def test_recipes_with_schedules_are_plain_data() -> None:
    recipe = accel.Recipe(sampler=PseudoCorrector(steps=0.4, sigmas=SigmaTable((1.0, 0.5, 0.1))))
    assert accel.Recipe.from_dict(recipe.to_dict()) == recipe
