"""What is made of several prompts: what is usual, and which of them have no say."""

from __future__ import annotations

import pytest

from accel.caching.calibration.rehearsal import calm_runs, typical

CALM = {2: 0.1, 4: 0.2}


def test_what_is_usual_is_the_median_of_each_position() -> None:
    assert typical([{2: 0.1}, {2: 0.3, 4: 1.0}, {2: 9.0}]) == {2: 0.3, 4: 1.0}


@pytest.mark.parametrize(("rough", "left"), [(3.0, [0, 1, 3]), (0.0, [0, 1, 2, 3]), (50.0, [0, 1, 2, 3])])
def test_a_run_in_which_one_output_was_foretold_far_worse_than_in_most_has_no_say(
    rough: float, left: list[int]
) -> None:
    assert calm_runs({0: CALM, 1: {2: 0.2, 4: 0.1}, 2: {2: 0.1, 4: 4.0}, 3: CALM}, rough) == left


def test_where_most_runs_differ_all_of_them_have_a_say() -> None:
    errors = {number: {place: 100.0 if place == number else 0.1 for place in range(4)} for number in range(4)}
    assert calm_runs(errors, 3.0) == [0, 1, 2, 3]
    assert calm_runs({7: CALM}, 3.0) == [7]
