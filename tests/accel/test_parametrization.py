"""All parametrisations say the same of one picture and one noise."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch

from accel.parametrization import (
    Prediction,
    Samples,
    clean_from_output,
    euler_weights,
    flow_time,
    lagrange,
    output_from_clean,
    output_shares,
    point_of,
    prediction_in,
    scale_of,
    shares,
)

CLEAN, NOISE = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.5, 0.25]])
KINDS = [kind for kind in get_args(Prediction) if kind != "unknown"]
LEVELS = (0.05, 0.4, 0.9)

every_kind = pytest.mark.parametrize("kind", KINDS)
every_level = pytest.mark.parametrize("sigma", LEVELS)


def mixed(signal: float, noise: float) -> torch.Tensor:
    return signal * CLEAN + noise * NOISE


@every_kind
@every_level
def test_an_output_says_what_the_picture_is_and_back(kind: str, sigma: float) -> None:
    given = mixed(*shares(sigma, "flow" if "flow" in kind else "preserving"))
    output = mixed(*output_shares(sigma, kind))
    torch.testing.assert_close(clean_from_output(output, given, sigma, kind), CLEAN)
    torch.testing.assert_close(output_from_clean(CLEAN, given, sigma, kind), output)


@every_kind
@every_level
def test_an_output_is_recognised_by_what_it_is_made_of(kind: str, sigma: float) -> None:
    # Near the picture v is nearly the noise, and a flow's velocity never is.
    level = sigma if "flow" in kind else 4.0 * sigma
    found = prediction_in(*output_shares(level, kind), level, "flow" in kind)
    assert found == kind or level < 0.3


@pytest.mark.parametrize("samples", get_args(Samples))
@every_kind
@every_level
def test_in_the_common_coordinates_every_sample_is_on_one_line(kind: str, samples: Samples, sigma: float) -> None:
    if ("flow" in kind) != (samples == "flow"):
        pytest.skip("flows predict velocities")
    sample = mixed(*shares(sigma, samples))
    point = point_of(sample, mixed(*output_shares(sigma, kind)), sigma, samples, kind)
    time = flow_time(sigma, samples == "flow")
    torch.testing.assert_close(point.x, mixed(1.0 - time, time))
    torch.testing.assert_close(point.clean, CLEAN)
    torch.testing.assert_close(point.velocity, NOISE - CLEAN)
    torch.testing.assert_close(point.x * scale_of(sigma, samples), sample)


def test_the_flow_time_keeps_the_ratio_of_noise_to_signal() -> None:
    for ratio in (0.01, 1.0, 80.0):
        time = flow_time(ratio, False)
        assert time / (1.0 - time) == pytest.approx(ratio)
    assert flow_time(np.array([0.5, 0.25]), True).tolist() == [0.5, 0.25]


@pytest.mark.parametrize("flow", [True, False])
def test_euler_steps_with_these_weights_go_from_noise_to_the_picture(flow: bool) -> None:
    """Of a flow with its velocity, of other models with the clean estimate; neither changes on the way."""
    sigmas = np.array([1.0, 0.6, 0.3, 0.05] if flow else [20.0, 3.0, 1.0, 0.5])
    weights, (first, last) = euler_weights(sigmas, flow), sigmas[[0, -1]]
    if flow:
        start, end = mixed(1.0 - first, first), mixed(1.0 - last, last)
        torch.testing.assert_close(start + sum(weights) * (NOISE - CLEAN), end)
    else:  # x0 + sigma noise, divided by sigma
        torch.testing.assert_close(mixed(1.0 / first, 1.0) + sum(weights) * CLEAN, mixed(1.0 / last, 1.0))


def test_lagranges_weights_are_those_of_the_polynomial_for_numbers_and_arrays() -> None:
    times = [0.9, 0.5, 0.2]
    weights = lagrange(times, 0.1)
    assert math.fsum(weights) == pytest.approx(1.0)
    assert sum(w * (3 * t * t - t) for w, t in zip(weights, times, strict=True)) == pytest.approx(3 * 0.01 - 0.1)
    rows = lagrange([np.array([time, time]) for time in times], np.array([0.1, 0.5]))
    assert [row[0] for row in rows] == weights
    assert [row[1] for row in rows] == pytest.approx([0.0, 1.0, 0.0])
