"""Fitted sums with numbers for tensors: what is handed on, and when a run counts as rough."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from accel.caching.fitted_sums import FittedPlan, FittedSteps, FittedSums, StepSum
from accel.caching.policy import EveryNth
from accel.caching.predictor import PastValues

PLAN = FittedPlan(frozenset({0, 2, 4}), {2: 0.1, 4: 0.2}, rough=2.0)
SUMS = {
    0: StepSum((0,), (0.9,)),
    1: StepSum((0,), (1.1,)),
    2: StepSum((2, 0), (1.5, -0.5), (1.2,)),
    3: StepSum((2, 0), (2.0, -1.0)),
}


def past(position: int, value: float) -> PastValues:
    return PastValues(1.0 - 0.2 * position, [torch.full((1, 2), value)], position=position)


def call(position: int) -> Any:
    return SimpleNamespace(context=SimpleNamespace(time=1.0 - 0.2 * position, position=position, total=5))


def value(tensors: list[torch.Tensor]) -> float:
    return float(tensors[0][0, 0])


def test_a_skipped_step_hands_on_the_sum_of_the_last_computed_outputs() -> None:
    sums = FittedSums(SUMS, PLAN)
    assert value(sums.forecast(call(1), [past(0, 10.0)], "flow").values) == pytest.approx(11.0)
    assert value(sums.forecast(call(3), [past(0, 10.0), past(2, 4.0)], "flow").values) == pytest.approx(-2.0)


def test_a_computed_step_hands_on_a_sum_that_has_its_own_output_in_it() -> None:
    handed = FittedSums(SUMS, PLAN).handed_on(past(2, 4.0), [past(0, 10.0)])
    assert handed is not None and value(handed) == pytest.approx(1.0)


def test_a_computed_output_is_foretold_from_those_before() -> None:
    assert value(FittedSums(SUMS, PLAN).foreseen(call(2), [past(0, 10.0)], past(2, 4.0), "flow")) == 12.0


def test_where_other_steps_have_computed_than_were_fitted_outputs_are_handed_on_as_they_are() -> None:
    sums, more = FittedSums(SUMS, PLAN), [past(0, 10.0), past(1, 8.0)]
    assert sums.handed_on(past(2, 4.0), more) is None
    assert sums.handed_on(past(5, 4.0), []) is None
    assert value(sums.forecast(call(3), [*more, past(4, 3.0)], "flow").values) == 3.0


def test_where_other_steps_have_computed_nothing_is_foretold_so_nothing_is_rough() -> None:
    now = past(2, 4.0)
    assert FittedSums(SUMS, PLAN).foreseen(call(2), [past(0, 10.0), past(1, 8.0)], now, "flow") is now.values


def test_sums_keep_the_dtype_and_remember_as_many_outputs_as_they_are_made_of() -> None:
    sums = FittedSums(SUMS, PLAN)
    history = [PastValues(1.0, [torch.ones(1, 2, dtype=torch.bfloat16)], position=0)]
    assert sums.forecast(call(1), history, "flow").values[0].dtype == torch.bfloat16
    assert sums.depth == 2


def test_a_fitted_predictor_brings_its_plan() -> None:
    assert isinstance(FittedSums(SUMS, PLAN).planned(EveryNth(2)), FittedSteps)


def decisions(errors: dict[int, float], rough: float = 2.0) -> tuple[str, str]:
    """Which of six steps compute, where outputs are foretold with these errors; and the note."""
    policy, marks = FittedSteps(FittedPlan(PLAN.computed, PLAN.errors, rough)), ""
    for position in range(6):
        skip = policy.decide(None, position, 6).skip
        marks += "·" if skip else "█"
        if not skip and policy.watches(position):
            policy.after_forecast(position, 2, errors[position])
    return marks, policy.note or ""


def test_the_plan_is_followed_while_outputs_are_foretold_as_well_as_in_other_runs() -> None:
    assert decisions({2: 0.1, 4: 0.4}) == ("█·█·█·", "")


@pytest.mark.parametrize("error", [0.21, math.inf, math.nan])
def test_a_run_that_is_rougher_is_computed_in_full_from_there(error: float) -> None:
    marks, note = decisions({2: error, 4: 9.0})
    assert marks == "█·████" and note.startswith("computed in full from step 3 on")


def test_rough_0_watches_nothing() -> None:
    assert decisions({2: 99.0, 4: 99.0}, rough=0.0) == ("█·█·█·", "")
