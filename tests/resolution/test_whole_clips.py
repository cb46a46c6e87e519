"""ShiftedWindows(whole=...): a long clip begins as one window; exact where nothing is faster than that can show."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

import accel
from accel import FixedInterval, Recipe, ShiftedWindows
from accel.resolution.latent_grid import LatentGrid
from accel.resolution.smaller import FewerFrames, low_frequencies
from tests.tiny import TINY, run

FRAMES = 5
lengths = pytest.mark.parametrize("length", [10, 14, 15])


class SlowClips(torch.nn.Module):
    """The exact flow for Gaussian clips of `length` frames whose motion is as slow as one of FRAMES frames, and for
    those; pixels are independent. fast: the variance of what is faster."""

    def __init__(self, length: int, fast: float) -> None:
        super().__init__()
        self.config, self.seen = {"in_channels": 2}, []
        place = torch.arange(FRAMES, dtype=torch.float64)
        slow = torch.exp(-(place[:, None] - place).abs() / 2)
        up = low_frequencies(length, FRAMES).T * (length / FRAMES)
        rest = torch.eye(length, dtype=torch.float64) - up @ low_frequencies(length, FRAMES)
        self.covariance = {FRAMES: slow, length: up @ slow @ up.T + fast * rest}

    def forward(self, sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        self.seen.append(tuple(sample.shape))
        noise, covariance = float(timestep) / 1000, self.covariance[sample.shape[2]]
        seen = (1 - noise) ** 2 * covariance + noise**2 * torch.eye(len(covariance), dtype=torch.float64)
        x = sample.movedim(2, -1)
        clean = (1 - noise) * x @ torch.linalg.solve(seen, covariance)
        return (((x - clean) / noise).movedim(-1, 2),)


class Clips:
    def __init__(self, length: int, fast: float = 0.0) -> None:
        self.scheduler, self.config = FlowMatchEulerDiscreteScheduler(), SimpleNamespace(_name_or_path="")
        self.unet, self.length = SlowClips(length, fast), length
        self.components = {"unet": self.unet, "scheduler": self.scheduler}

    def __call__(self, steps: int = 20) -> torch.Tensor:
        """The latents at noise level 0.4, until which all calls may be of the whole clip."""
        self.scheduler.set_timesteps(steps)
        draw = torch.Generator().manual_seed(0)
        sample = torch.randn(2, 2, self.length, 6, 4, generator=draw, dtype=torch.float64)
        for timestep in self.scheduler.timesteps:
            if timestep > 400:
                output = self.unet(sample, timestep, encoder_hidden_states=torch.zeros(2, 3, 4))[0]
                sample = self.scheduler.step(output, timestep, sample, return_dict=False)[0]
        return sample


def begun_whole(pipe: Any, whole: float, window: int = 0) -> tuple[torch.Tensor, str]:
    with accel.accelerate(pipe, Recipe(resolution=ShiftedWindows(window, FRAMES, whole=whole))) as session:
        return pipe(), session.report().levers[0].reason


def few(clips: torch.Tensor) -> torch.Tensor:
    return clips.movedim(2, -1) @ low_frequencies(clips.shape[2], FRAMES).T


@lengths
@pytest.mark.parametrize(("window", "batch"), [(0, 2), (4, 4)], ids=["time alone", "rows too"])
def test_clips_whose_motion_is_slow_come_out_the_same(length: int, window: int, batch: int) -> None:
    pipe = Clips(length)
    found, said = begun_whole(pipe, 0.3, window)
    reference = Clips(length)()
    assert (found - reference).abs().max() < 2e-4 * reference.abs().max()
    assert {shape[2] for shape in pipe.unet.seen} == {FRAMES}
    assert batch in {shape[0] for shape in pipe.unet.seen}
    assert "of them of the whole clip at once" in said and "not of" not in said


@lengths
def test_of_clips_with_fast_changes_the_slow_ones_come_out_the_same(length: int) -> None:
    found, _ = begun_whole(Clips(length, fast=0.3), 0.3)
    reference = Clips(length, fast=0.3)()
    assert (few(found) - few(reference)).abs().max() < 2e-4 * reference.abs().max()
    assert (found - reference).abs().max() > 1e-2


@lengths
def test_the_clip_is_cut_below_that_noise_level(length: int) -> None:
    pipe = Clips(length)
    begun_whole(pipe, 0.7)
    samples = [shape[0] // 2 for shape in pipe.unet.seen]
    whole = samples.count(1)
    assert 3 < whole < len(samples) and samples[:whole] == [1] * whole
    assert all(length // FRAMES <= count <= length // FRAMES + 2 for count in samples[whole:])


@given(st.integers(1, 40), st.integers(1, 40))
def test_fewer_frames_keep_white_noise_white_and_what_does_not_move(fewer: int, length: int) -> None:
    fewer, length = sorted((fewer, length))
    grid = FewerFrames(LatentGrid((2, 3, 4), 1, (length, 2, 3), 4), fewer)
    matrix = low_frequencies(length, fewer)
    assert torch.allclose(matrix @ matrix.T, fewer / length * torch.eye(fewer, dtype=torch.float64))
    still = torch.randn(1, 4, 1, 2, 3, dtype=torch.float64)
    assert torch.allclose(grid.down(still.expand(-1, -1, length, -1, -1)), still.expand(-1, -1, fewer, -1, -1))
    clips = torch.randn(1, 4, fewer, 2, 3, dtype=torch.float64)
    assert torch.allclose(grid.down(grid.up(clips)), clips)
    assert torch.equal(grid.spread(clips)[:, :, 0], clips[:, :, 0]) and grid.spread(clips).shape[2] == length


def test_a_motion_goes_on_steadily() -> None:
    """Spread over blocks it would stand still for three frames and then leap."""
    grid = FewerFrames(LatentGrid((2, 3, 4), 1, (15, 1, 1), 1), FRAMES)
    steps = grid.up(torch.arange(5.0, dtype=torch.float64).view(1, 1, 5, 1, 1)).flatten().diff()
    assert steps[2:-2].min() > 0.2 and steps.max() < 0.5, "a third each, but for the ends"


WHOLE = {"wan", "wan_two_experts", "ltx", "mochi", "hunyuan_video", "cogvideox", "cogvideox_dpm", "animatediff"}
TOLD = {"wan_i2v", "svd"}  # each frame has a condition of its own


@pytest.mark.part(3)
@pytest.mark.parametrize("name", sorted(WHOLE | TOLD))
def test_every_video_pipeline_begins_whole_or_says_why_not(name: str) -> None:
    pipe, tiny = TINY[name].build(), TINY[name]
    plain = run(pipe, tiny, steps=4)
    with accel.accelerate(pipe, Recipe(resolution=ShiftedWindows(0, 2, whole=0.4))) as session:
        found, again = run(pipe, tiny, steps=4), run(pipe, tiny, steps=4)
        (lever,) = session.report().levers
    with accel.accelerate(pipe, Recipe(resolution=ShiftedWindows(0, 2))):
        cut = run(pipe, tiny, steps=4)
    assert torch.equal(found, again) and found.isfinite().all()
    assert torch.equal(run(pipe, tiny, steps=4), plain)
    assert torch.equal(found, cut) == (name in TOLD)
    why = "the picture that a frame is told to show would be averaged" if name in TOLD else "of them of the whole clip"
    assert why in lever.reason


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "animatediff"])
def test_it_goes_with_a_cache(name: str) -> None:
    pipe, tiny = TINY[name].build(), TINY[name]
    recipe = Recipe(resolution=ShiftedWindows(0, 2, whole=0.5), cache=FixedInterval(2))
    with accel.accelerate(pipe, recipe) as session:
        assert run(pipe, tiny, steps=12).isfinite().all()
    assert all(lever.engaged for lever in session.report().levers)
