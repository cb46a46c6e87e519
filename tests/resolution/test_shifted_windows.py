"""ShiftedWindows: a denoiser that looks at one pixel sees no windows; one window is no window; away with a reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

import accel
from accel import AdaptiveGuidance, FixedInterval, Recipe, ShiftedWindows
from accel.resolution.segments import segments
from tests.resolution.untouched import UNTOUCHED
from tests.tiny import TINY, run

STEPS = 4


class Pointwise(torch.nn.Module):
    """What it says of a pixel depends on that pixel and the prompt alone; it notes the shapes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.seen = {}, []

    def forward(self, sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        self.seen.append(tuple(sample.shape))
        prompt = encoder_hidden_states.mean((1, 2)).view(-1, *[1] * (sample.ndim - 1))
        return (torch.tanh(sample * 2 + prompt) * (1 + timestep / 1000),)


class Canvas:
    """A loop over a pointwise denoiser; both samples have prompts of their own."""

    def __init__(self) -> None:
        self.scheduler, self.config = FlowMatchEulerDiscreteScheduler(), SimpleNamespace(_name_or_path="")
        self.unet = Pointwise()
        self.components = {"unet": self.unet, "scheduler": self.scheduler}

    def __call__(self, *size: int, steps: int = 6) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        draw = torch.Generator().manual_seed(0)
        sample, prompts = torch.randn(2, 3, *size, generator=draw), torch.randn(2, 5, 4, generator=draw)
        for timestep in self.scheduler.timesteps:
            output = self.unet(sample, timestep, encoder_hidden_states=prompts)[0]
            sample = self.scheduler.step(output, timestep, sample, return_dict=False)[0]
        return sample


def windowed(*size: int, **options: Any) -> tuple[torch.Tensor, list[tuple[int, ...]], Any]:
    pipe = Canvas()
    with accel.accelerate(pipe, Recipe(resolution=ShiftedWindows(**options))) as session:
        return pipe(*size), pipe.unet.seen, session.report().levers[0]


@pytest.mark.parametrize("circular", [0, 1])
@pytest.mark.parametrize("size", [(8, 32), (13, 9), (7, 29), (12, 5, 16)], ids=str)
def test_a_denoiser_that_looks_at_one_pixel_sees_no_windows(size: tuple[int, ...], circular: int) -> None:
    found, seen, report = windowed(*size, window=8, frames=5, circular=circular)
    assert torch.equal(found, Canvas()(*size)) and report.engaged
    assert len(seen) == 6, "one call for all windows"
    assert all(part <= 8 for shape in seen for part in shape[-2:])


@given(st.integers(1, 70), st.integers(1, 20), st.integers(0, 19), st.booleans())
def test_every_place_is_taken_from_one_window_that_holds_it(
    length: int, window: int, offset: int, circular: bool
) -> None:
    found = segments(length, window, offset % window, circular)
    taken = [place % length for one in found for place in range(one.first, one.last)]
    assert sorted(taken) == list(range(length))
    assert all(
        one.start <= one.first and one.last <= one.start + max(window, length * (length <= window)) for one in found
    )
    assert circular or all(one.start >= 0 and one.start + min(window, length) <= length for one in found)
    assert len(found) <= -(-length // window) + 1


def test_seams_are_elsewhere_in_every_step_and_the_same_in_every_run() -> None:
    places = [ShiftedWindows(16).offset(step, 0.5, 2, 16) for step in range(50)]
    assert places == [ShiftedWindows(16).offset(step, 0.5, 2, 16) for step in range(50)]
    assert len(set(places)) > 10
    assert places != [ShiftedWindows(16, seed=1).offset(step, 0.5, 2, 16) for step in range(50)]


def test_windows_stay_in_their_places_while_noise_is_high() -> None:
    """A canvas of two windows is two calls' worth then, side by side, and three where they move."""
    _, seen, _ = windowed(8, 16, window=8)
    batches = [shape[0] // 2 for shape in seen]
    assert batches[:2] == [2, 2] and 3 in batches
    assert {shape[0] // 2 for shape in windowed(8, 16, window=8, still=0.0)[1]} == {2}
    assert windowed(8, 16, window=8, still=1.0)[1][0][0] // 2 == 3, "as published"


def test_in_time_windows_always_move() -> None:
    """A part of a clip that began by itself would be a cut between shots."""
    method = ShiftedWindows(16, frames=5)
    assert any(method.offset(step, 1.0, 0, 5) for step in range(9))
    assert not any(method.offset(step, 1.0, axis, 16) for step in range(9) for axis in (1, 2))


def test_one_window_changes_no_bit_and_says_so() -> None:
    found, _, report = windowed(8, 8, window=8)
    assert torch.equal(found, Canvas()(8, 8))
    assert not report.engaged and "one window holds all of it" in report.reason


def test_nothing_set_is_off() -> None:
    _, _, report = windowed(8, 8, window=0)
    assert not report.engaged and "neither window nor frames is set" in report.reason


def test_the_work_grows_with_the_area() -> None:
    pixels = [max(shape[0] for shape in windowed(8, width, window=8, still=1.0)[1]) for width in (32, 64, 128)]
    assert pixels == [2 * (4 + 1), 2 * (8 + 1), 2 * (16 + 1)]


@pytest.mark.part(2)
@pytest.mark.parametrize("name", TINY)
def test_every_pipeline_is_cut_or_says_why_not(name: str) -> None:
    pipe, tiny = TINY[name].build(), TINY[name]
    plain = run(pipe, tiny, steps=STEPS)
    with accel.accelerate(pipe, Recipe(resolution=ShiftedWindows(window=4, frames=2))) as session:
        found, again = run(pipe, tiny, steps=STEPS), run(pipe, tiny, steps=STEPS)
        (lever,) = session.report().levers
    assert torch.equal(found, again)
    assert torch.equal(run(pipe, tiny, steps=STEPS), plain)
    assert found.isfinite().all()
    assert lever.engaged == (name not in UNTOUCHED), lever.reason
    assert torch.equal(found, plain) == (name in UNTOUCHED)
    assert UNTOUCHED.get(name, "") in lever.reason


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "flux", "sd3"])
def test_cache_and_guidance_act_on_the_whole(name: str) -> None:
    pipe, tiny = TINY[name].build(), TINY[name]
    recipe = Recipe(resolution=ShiftedWindows(4, 2), cache=FixedInterval(2), guidance=AdaptiveGuidance(0.0))
    with accel.accelerate(pipe, recipe) as session:
        assert run(pipe, tiny, steps=12).isfinite().all()
    levers = {lever.lever: lever for lever in session.report().levers}
    assert levers["resolution"].engaged and levers["cache"].engaged
