"""Methods that make another picture: tuned where the user's own metric judges, and left after one run that says no."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from accel.measure.metrics import psnr
from accel.resolution import CoarseToFine
from accel.tuning.goal import Bound, TuningGoal
from accel.tuning.narrowing import allowed
from accel.tuning.search import CandidateSearch
from accel.tuning.simulate import Estimate
from accel.tuning.space import Candidate, Space, Structure
from accel.tuning.surrogate import Surrogate
from accel.tuning.trial_log import TrialResult

SMALL = CoarseToFine()
ALONE = Candidate(Structure(resolution=SMALL))
MINE = TuningGoal((Bound("mine", psnr, least=0.98, slack=0.01),))
LIKE = TuningGoal((Bound("psnr", psnr, least=30.0, slack=1.0),))


def space_after(goal: TuningGoal, values: dict[str, float], time: float) -> tuple[Space, list[Any]]:
    """What is left where each run gives these values and takes so much of the time, and the runs that were made."""
    runs: list[Any] = []

    def trial(recipe: Any, shot: int) -> Any:
        runs.append((recipe.resolution, shot))
        return SimpleNamespace(values=values, time=time)

    lab: Any = SimpleNamespace(trial=trial)
    return allowed(Space((), {"resolution": (SMALL,)}, 50), lab, goal, lambda text: None), runs


def test_one_run_shows_whether_the_users_metric_allows_another_picture() -> None:
    space, runs = space_after(MINE, {"mine": 0.985, "psnr": 13.0}, 0.5)
    assert space.others["resolution"] == (SMALL,) and runs == [(SMALL, 0)]
    space, runs = space_after(MINE, {"mine": 0.5, "psnr": 13.0}, 0.5)
    assert space.others["resolution"] == () and len(runs) == 1
    assert space.left_out == {str(SMALL): "alone it misses MINE at least 0.98"}


def test_one_run_shows_that_it_is_no_faster() -> None:
    space, runs = space_after(MINE, {"mine": 1.0, "psnr": 13.0}, 1.1)
    assert space.left_out == {str(SMALL): "alone it is no faster"} and len(runs) == 1


def test_no_run_is_spent_on_it_where_the_goal_is_likeness() -> None:
    assert space_after(LIKE, {}, 0.5)[1] == []


@pytest.mark.parametrize(
    ("bounds", "allows"),
    [(MINE.bounds, True), (LIKE.bounds, False), ((*MINE.bounds, *LIKE.bounds), False)],
)
def test_which_goals_allow_another_picture(bounds: tuple[Bound, ...], allows: bool) -> None:
    assert TuningGoal(bounds).allows_another_picture == allows
    assert not TuningGoal(speedup=2.0).allows_another_picture


def test_the_search_judges_it_by_the_users_metric_and_not_by_likeness() -> None:
    """A smaller size halves the time at 13 dB, and the user likes it; caches are liked from 36 dB on."""
    likeness = {count / 50: 20.0 + count for count in range(6, 40, 2)}
    outlooks = {ALONE: Estimate(1.0, 1.0, {})}
    for share, decibels in likeness.items():
        for resolution in (None, SMALL):
            outlook = Estimate(share, share, {"cache": 10.0 ** (-decibels / 10.0) / 0.008})
            outlooks[Candidate(Structure("planned", resolution=resolution), share)] = outlook
    ran: list[Candidate] = []

    def run(candidate: Candidate, shot: int) -> TrialResult:
        ran.append(candidate)
        decibels, small = likeness.get(candidate.compute, 60.0), candidate.structure.resolution is not None
        values = {"psnr": 13.0 if small else decibels, "mine": min(1.0, 1.0 - (36.0 - decibels) / 100.0)}
        return TrialResult(values, candidate.compute / (1.0 + small), candidate.compute)

    search = CandidateSearch(MINE, outlooks, Surrogate(0.0), run, shots=2, held_out=4)
    search.measure(ALONE, 0)
    search.start()
    best = search.best()
    assert best is not None and best.structure.resolution == SMALL
    assert likeness[best.compute] >= 34.0, "or the user does not like it"
    assert best.compute / 2.0 < 16 / 50, "no other that the user likes is as fast"
    assert len(ran) < 40
