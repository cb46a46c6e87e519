"""What a report says of evaluations that were spared: each once, and about how long it would have taken."""

from __future__ import annotations

import pytest

import accel
from accel.caching import FixedInterval
from accel.report import CallRecord, LeverReport, Report
from accel.samplers import Euler, GuidanceInterval
from accel.savings import evaluation_seconds, with_savings
from tests.tiny import TINY, run

CACHE, GUIDANCE, SAMPLER = FixedInterval(3, min_steps=1), GuidanceInterval(0.5), Euler(steps=0.5)


def record(action, seconds=1.0, part=1.0, spared=(), denoiser="transformer"):
    return CallRecord(0, 0, 0, 1.0, "cond", denoiser, action, "why", seconds, part=part, spared=spared)


CALLS = [
    record("computed", 9.0),  # prepares
    record("computed", 4.0),
    record("computed", 4.0),
    record("computed", 3.0, 0.5, (("guidance", 0.5),)),
    record("predicted", 1.0, 0.0, (("cache", 1.0),)),
    record("predicted", 0.5, 0.0, (("guidance", 0.5), ("cache", 0.5))),
    record("dropped", 0.0, 0.0, (("guidance", 1.0),)),
]


def levers(on_host: bool = True) -> dict[str, LeverReport]:
    told = [LeverReport("sampler", "", True, "", spared=7.0)]
    told += [LeverReport(lever, "", True, "") for lever in ("guidance", "cache", "attention")]
    return {lever.lever: lever for lever in with_savings(told, CALLS, 30.0, on_host=on_host)}


def test_each_evaluation_counts_under_the_lever_that_spared_it() -> None:
    found = levers()
    assert {name: lever.spared for name, lever in found.items()} == {
        "sampler": 7.0, "guidance": 2.0, "cache": 1.5, "attention": 0.0,
    }  # fmt: skip


def test_they_would_have_taken_what_the_ordinary_one_took() -> None:
    """Less what came in their place. The ordinary one is whole, and not the first."""
    assert evaluation_seconds(CALLS, 30.0, on_host=True) == {"transformer": 4.0}
    found = levers()
    assert found["sampler"].spared_seconds == pytest.approx(28.0)
    assert found["guidance"].spared_seconds == pytest.approx(2.0 + 1.75 + 4.0)
    assert found["cache"].spared_seconds == pytest.approx(3.0 + 1.75)
    assert found["attention"].spared_seconds is None, "it makes evaluations cheaper, which no count shows"


def test_where_launching_is_all_that_the_host_sees_the_loop_is_what_counts() -> None:
    assert evaluation_seconds(CALLS, 35.0, on_host=False) == {"transformer": 10.0}
    assert levers(on_host=False)["cache"].spared_seconds == pytest.approx(1.5 * 30.0 / 3.5)


def test_denoisers_cost_what_they_cost() -> None:
    calls = [*CALLS, record("computed", 20.0, denoiser="second")]
    assert evaluation_seconds(calls, 50.0, on_host=True) == {"transformer": 4.0, "second": 20.0}


def test_without_a_computed_call_only_the_count_is_known() -> None:
    (lever,) = with_savings([LeverReport("cache", "", True, "")], CALLS[4:5], 1.0, on_host=True)
    assert (lever.spared, lever.spared_seconds) == (1.0, None)


def test_a_step_of_which_a_part_was_evaluated_is_no_evaluation_that_was_spared() -> None:
    """It used to be a division by zero, beside a sampler that takes fewer steps."""
    shallow = record("predicted", 1.0, 1.0)
    told = [LeverReport("sampler", "", True, "", spared=1.0), LeverReport("cache", "", True, "")]
    sampler, cache = with_savings(told, [*CALLS[:3], shallow], 30.0, on_host=True)
    assert (sampler.spared, sampler.spared_seconds) == (1.0, 4.0)
    assert (cache.spared, cache.spared_seconds) == (0.0, None)
    pipe = TINY["sd"].build()
    with accel.accelerate(pipe, accel.Recipe(cache=accel.DeepCache(2, min_steps=1), sampler=SAMPLER)) as session:
        run(pipe, TINY["sd"])
        assert session.report().predicted


@pytest.mark.part(2)
@pytest.mark.parametrize("name", ["wan", "sd", "sdxl"])
def test_what_was_spared_and_what_was_computed_are_all_there_would_have_been(name: str) -> None:
    """Two calls for each step, and one batch: nothing is counted twice, and nothing is missing."""
    pipe = TINY[name].build()
    with accel.accelerate(pipe, accel.Recipe(cache=CACHE, guidance=GUIDANCE)) as session:
        run(pipe, TINY[name])
        report = session.report()
    spared = {lever.lever: lever.spared for lever in report.levers}
    assert min(spared.values()) > 0.0
    assert sum(spared.values()) + report.evaluations == pytest.approx(len(report.calls))
    assert "  spared    guidance" in str(report) and "(about" in str(report)


def test_steps_that_a_sampler_leaves_out_count_with_all_their_calls() -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, accel.Recipe(sampler=SAMPLER)) as session:
        run(pipe, TINY["wan"])
        report = session.report()
    (sampler,) = report.levers
    assert sampler.spared == len(report.calls) == report.computed


def test_a_recipe_that_spares_nothing_has_no_such_line() -> None:
    assert "spared" not in str(Report("plain", CALLS[:1], [LeverReport("cache", "", False, "short run")]))
