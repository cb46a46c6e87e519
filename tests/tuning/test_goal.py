"""What a user may ask for, and when measured clips are enough to promise it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel.measure.metrics import psnr
from accel.tuning.goal import Bound, TuningGoal, goal_of, tolerance_factor


def goal(**asked: Any) -> TuningGoal:
    given = {"min_psnr": None, "min_ssim": None, "max_lpips": None, "bounds": (), "target_speedup": None}
    return goal_of(**{**given, "coverage": 0.95, **asked})


@pytest.mark.parametrize(("count", "factor"), [(5, 2.463), (10, 2.103), (20, 1.933)])
def test_the_tolerance_factor_is_that_of_the_published_tables(count: int, factor: float) -> None:
    # ISO 16269-6, one-sided, 95 % of the distribution with 75 % confidence.
    assert tolerance_factor(count, 0.95) == pytest.approx(factor, abs=2e-3)


def test_a_promise_leaves_room_for_prompts_that_were_not_measured() -> None:
    bound = Bound("psnr", psnr, least=30.0, slack=1.0)
    assert bound.margin([34.0] * 8, 0.95) == pytest.approx(5.0)
    assert bound.margin([38.0, 36.0, 34.0, 32.0], 0.95) < 0.0, "scattered: the worst of many will be below"
    assert bound.margin([39.0, 38.0, 37.0, 36.0], 0.95) > 0.0


def test_no_greater_share_of_the_measured_prompts_may_break_the_promise() -> None:
    bound = Bound("psnr", psnr, least=30.0, slack=1.0)
    assert bound.margin([40.0] * 18 + [28.5], 0.95) == pytest.approx(-0.5), "one of 19 is more than 5 %"
    assert bound.margin([40.0] * 39 + [28.5], 0.95) > 0.0
    assert bound.margin([40.0] * 37 + [28.5] * 3, 0.95) == pytest.approx(-0.5)


def test_a_metric_of_which_less_is_better_is_bounded_from_above() -> None:
    bound = Bound("difference", lambda one, other: float(np.abs(one - other).mean()), most=0.1)
    assert bound.margin([0.05, 0.05], 0.95) == pytest.approx(0.05)
    assert bound.margin([0.2], 0.95) == pytest.approx(-0.1)


def test_the_strictest_bound_decides() -> None:
    both = goal(min_psnr=30.0, min_ssim=0.9)
    good, bad = {"psnr": [50.0, 50.0], "ssim": [0.99, 0.99]}, {"psnr": [50.0, 50.0], "ssim": [0.8, 0.8]}
    assert both.margin(good) > 0.0 > both.margin(bad)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "say either what quality is needed"),
        ({"min_psnr": 30, "target_speedup": 2.0}, "say either what quality is needed"),
        ({"min_psnr": -3}, "min_psnr must be a number above 0"),
        ({"min_psnr": "high"}, "min_psnr must be a number above 0"),
        ({"min_ssim": 1.5}, "min_ssim must be a number above 0 and at most 1"),
        ({"target_speedup": 1.0}, "target_speedup must be a number above 1"),
        ({"target_speedup": float("nan")}, "target_speedup must be a number above 1"),
        ({"min_psnr": 30, "coverage": 1.0}, "coverage is a share of the prompts"),
        ({"min_psnr": 30, "bounds": [Bound("psnr", psnr, least=20)]}, "two bounds are on the same metric"),
    ],
)
def test_what_cannot_be_asked_for_is_said_in_one_sentence(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        goal(**asked)


def test_a_bound_needs_exactly_one_limit() -> None:
    with pytest.raises(ValueError, match="the bound on mine needs one number"):
        Bound("mine", psnr, least=1.0, most=2.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"function": 3}, "a Bound has the name of a metric and its function, not 'mine', 3"),
        ({"name": ""}, "a Bound has the name of a metric and its function"),
        ({"name": "psnr", "function": max}, "psnr is a metric that accel measures itself"),
        ({"slack": -1.0}, "the slack of the bound on mine must be a number from 0, not -1.0"),
        ({"slack": "some"}, "the slack of the bound on mine must be a number from 0, not 'some'"),
    ],
)
def test_a_bound_that_cannot_be_judged_is_refused_before_anything_runs(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        Bound(**{"name": "mine", "function": psnr, "least": 1.0, **wrong})
