"""A plan that is added to where the run is rougher than it bears: more than planned, never less."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch

import accel
from accel import Extrapolate, OptimalSchedule
from accel.caching import extrapolate
from accel.caching.hindsight import largest_error
from accel.caching.planned_steps import PlannedSteps, cut
from accel.caching.planning import PlanRules
from accel.caching.predictor import PastValues, Predictor
from tests.caching.toy import ToyPipeline

SIGMAS = [1.0 - step / 20 for step in range(21)]
SIGNS = torch.where(torch.arange(32).reshape(1, 2, 4, 4) % 2 == 0, 1.0, -1.0)


@pytest.mark.parametrize(
    ("begin", "end", "most", "steps"),
    [(4, 8, 4, []), (4, 8, 2, [6]), (4, 8, 3, [6]), (4, 9, 2, [6, 7]), (4, 7, 1, [5, 6]), (4, 7, 0, [5, 6])],
)
def test_a_gap_is_cut_into_equal_parts(begin: int, end: int, most: int, steps: list[int]) -> None:
    assert cut(begin, end, most) == steps


def followed(errors: dict[int, float], guard: float = 0.25, first: int = 0) -> str:
    """C or S for each step, a computed one being told how wrong a forecast of it would have been: 0 if left out."""
    policy = PlannedSteps(lambda steps: 0.3, True, PlanRules(), guard=guard)
    policy.begin(SIGMAS, range(first, 20), 20)
    letters, last = "", -1
    for position in range(first, 20):
        skip = policy.decide(None, position, 20).skip
        letters += "S" if skip else "C"
        if not skip and last >= first and policy.watches(position):  # of the first output there is no forecast
            policy.after_forecast(position, position - last, errors.get(position, 0.0))
        last = last if skip else position
    return letters


PLAN = followed({})


def test_the_plan_is_followed_while_forecasts_are_good() -> None:
    assert PLAN.count("C") == 6
    assert followed(dict.fromkeys(range(20), 0.1)) == PLAN


def test_errors_are_taken_to_grow_with_the_gap() -> None:
    assert PLAN[:9] == "CSSSCSSSC"
    assert followed({4: 0.24})[:9] == "CSSSCSSSC"
    assert followed({4: 0.26})[:9] == "CSSSCSCSC"


@pytest.mark.parametrize("wrong", [0.3, 1.0, math.inf, math.nan])
def test_what_was_wrong_makes_the_next_gap_shorter_and_nothing_else(wrong: float) -> None:
    at = [step for step, letter in enumerate(PLAN) if letter == "C"][3]
    end = PLAN.index("C", at + 1)
    found = followed({at: wrong})
    assert found[: at + 1] == PLAN[: at + 1] and found[end:] == PLAN[end:]
    assert found[at + 1 : end].count("C") >= 1
    if not wrong <= 1.0:
        assert "S" not in found[at + 1 : end]


def test_a_second_denoiser_is_told_its_own_positions() -> None:
    assert "S" in followed({}, first=8)
    found = followed(dict.fromkeys(range(20), 9.0), first=8)
    assert "S" not in found[found.index("C", 1) :]


def test_nobody_is_asked_without_a_guard_or_before_no_gap() -> None:
    assert followed(dict.fromkeys(range(20), 9.0), guard=0.0) == PLAN
    policy = PlannedSteps(lambda steps: 0.3, True, PlanRules(), guard=0.25)
    policy.begin(SIGMAS, range(20), 20)
    assert [policy.watches(position) for position in (0, 4, 19)] == [True, True, False]


def test_the_error_is_that_of_the_worst_sample_and_output() -> None:
    right = torch.ones(3, 2, 2)
    forecast = torch.stack([right[0], 1.5 * right[1], 0.9 * right[2]])
    assert largest_error([right, forecast], [right, right]) == pytest.approx(0.5)
    assert largest_error([right], [torch.zeros(3, 2, 2)]) > 1e6
    assert math.isnan(largest_error([right * math.nan], [right]))


def timeline(pipe: Any, **settings: Any) -> tuple[str, str]:
    with accel.accelerate(pipe, cache=OptimalSchedule(0.3, **settings)) as session:
        pipe(num_inference_steps=30)
        report = session.report()
        return next(iter(report.timeline().values())), report.levers[0].reason


def test_a_rough_run_computes_more_and_the_report_says_why() -> None:
    rough = ToyPipeline(lambda latents, sigma: SIGNS * math.sin(40.0 * sigma))
    (plain, _), (guarded, reason) = timeline(rough), timeline(rough, guard=0.25)
    assert all(more == "█" for planned, more in zip(plain, guarded, strict=True) if planned == "█")
    added = guarded.count("█") - plain.count("█")
    assert added > 4
    assert f"{added} more than planned, because forecasts were wrong by more than 0.25" in reason


def test_a_smooth_run_is_not_disturbed() -> None:
    smooth = ToyPipeline(lambda latents, sigma: SIGNS * (1.0 + 0.2 * sigma))
    assert timeline(smooth, guard=0.25) == timeline(smooth)


def test_a_schedule_with_a_guard_is_rendered_alone() -> None:
    assert OptimalSchedule(0.3).treats_samples_alike
    assert not OptimalSchedule(0.3, guard=0.25).treats_samples_alike


@dataclass(frozen=True)
class Forgetful(Extrapolate, abstract=True):
    """Works everything out anew whenever it is asked."""

    foreseen = Predictor.foreseen

    def _seen(self, before: Any, now: PastValues, whole: Any = None) -> Any:
        now.seen.clear()
        return super()._seen(before, now)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("guard", [0.0, 0.25])
def test_what_an_output_says_of_its_forecast_is_worked_out_once(order: int, guard: float) -> None:
    pipe, found, times = ToyPipeline(lambda latents, sigma: SIGNS * math.sin(9.0 * sigma)), {}, {}
    for kind in (Forgetful, Extrapolate):
        cache = OptimalSchedule(0.4, guard=guard, predictor=kind(order))
        with (
            patch.object(extrapolate, "hindsight", side_effect=extrapolate.hindsight) as asked,
            accel.accelerate(pipe, cache=cache) as session,
        ):
            found[kind], times[kind] = pipe(num_inference_steps=40), asked.call_count
    computed = sum(call.action == "computed" for call in session.report().calls)
    assert torch.equal(found[Forgetful], found[Extrapolate])
    assert times[Extrapolate] <= computed * max(order, 1)  # of a parabola and, for the correction, of a line
    assert times[Extrapolate] < times[Forgetful] if order else times[Extrapolate] == times[Forgetful]
