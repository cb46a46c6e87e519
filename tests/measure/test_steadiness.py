"""Measures of a clip by itself, of several clips, and how far shares and means may be off."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accel.measure.intervals import of_mean, of_ratio, of_share
from accel.measure.metrics import flicker
from accel.measure.steadiness import diversity, thumbnail, warping_error

RANDOM = np.random.default_rng(0)
TEXTURE = RANDOM.random((48, 48, 3)).astype(np.float32)


def moving(step: int, frames: int = 5) -> np.ndarray:
    """A texture that slides to the right."""
    return np.stack([np.roll(TEXTURE, step * number, axis=1) for number in range(frames)])


def test_motion_that_a_block_can_follow_costs_little() -> None:
    assert warping_error(moving(0)) == 0.0
    slow, fast = (warping_error(moving(step)[:, :, 12:36]) for step in (2, 7))
    assert slow < 0.02 < fast


def test_boiling_counts_where_flicker_alone_would_call_it_motion() -> None:
    still, boiling = moving(0), RANDOM.random((5, 48, 48, 3)).astype(np.float32)
    weak = 0.9 * still + 0.1 * boiling
    assert flicker(weak) < flicker(moving(2)), "less changes than in a clip that moves"
    assert warping_error(weak) > warping_error(moving(2)[:, :, 12:36])


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (4, 6, 32, 3)])
def test_a_single_frame_or_less_than_a_block_says_so(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the warping error needs two frames of 8x8 pixels or more"):
        warping_error(np.zeros(shape, np.float32))


def test_diversity_is_the_distance_of_pairs() -> None:
    black, grey = np.zeros((2, 8, 8, 3)), np.full((2, 8, 8, 3), 0.5)
    assert diversity([black, grey]) == 0.5
    assert diversity([black, grey, grey]) == pytest.approx(1.0 / 3.0)
    assert diversity([black]) is None


def test_thumbnails_are_small_and_alike() -> None:
    clip = np.tile(TEXTURE, (20, 4, 4, 1))
    assert thumbnail(clip).shape == (8, 64, 64, 3)
    assert float(thumbnail(clip).mean()) == pytest.approx(float(clip.mean()), abs=1e-3)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (75, 100, 0.657, 0.825), (0, 0, 0.0, 1.0)],
)
def test_shares_have_wilsons_interval(hits: int, count: int, low: float, high: float) -> None:
    assert of_share(hits, count) == pytest.approx((low, high), abs=1e-3)


def test_means_are_inside_of_their_interval_as_often_as_it_says() -> None:
    inside = [low <= 1.0 <= high for low, high in (of_mean(RANDOM.exponential(size=40)) for _ in range(120))]
    assert 0.85 <= np.mean(inside) <= 0.99


def test_a_ratio_of_pairs_is_surer_than_its_parts() -> None:
    """Prompts differ by more than a factor of two; the same of both does not."""
    ours = RANDOM.uniform(1.0, 3.0, 30)
    low, high = of_ratio(ours * 0.5, ours)
    assert (low, high) == pytest.approx((0.5, 0.5))
    assert of_mean([3.0]) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="no pairs"):
        of_ratio([1.0], [1.0, 2.0])
