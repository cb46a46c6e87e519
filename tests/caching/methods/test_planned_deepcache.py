"""A plan whose computed steps run the whole U-Net in every n-th alone."""

from __future__ import annotations

import pytest
import torch

import accel
from accel import DeepCache, OptimalSchedule, PlannedDeepCache
from tests.accel.witness import pipeline, plain
from tests.tiny import TINY, run

STEPS = 12


def accelerated(name: str, method: accel.caching.Cache) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipeline(name), accel.Recipe(cache=method)) as session:
        return run(pipeline(name), TINY[name], steps=STEPS), session.report()


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_every_step_in_full_is_the_plan_alone(name: str) -> None:
    found, report = accelerated(name, PlannedDeepCache(0.5, interval=1, min_steps=1))
    expected, planned = accelerated(name, OptimalSchedule(0.5, min_steps=1))
    assert torch.equal(found, expected)
    assert report.timeline() == planned.timeline()


def test_a_plan_of_all_steps_is_deepcache_alone() -> None:
    found, report = accelerated("sd", PlannedDeepCache(1.0, interval=3, line=0.0, min_steps=1))
    expected, shallow = accelerated("sd", DeepCache(3))
    assert torch.equal(found, expected)
    assert report.timeline() == shallow.timeline()


def test_half_of_the_computed_steps_run_shallow_layers_alone_and_the_report_tells_them_apart() -> None:
    _, planned = accelerated("sd", OptimalSchedule(0.5, min_steps=1))
    _, report = accelerated("sd", PlannedDeepCache(0.5, min_steps=1))
    assert planned.computed == 6 and report.computed == 3
    assert [call.launches for call in report.calls] == [call.launches for call in planned.calls]
    (lever,) = report.levers
    assert lever.engaged and lever.spared == planned.predicted
    assert lever.reason.startswith(f"{planned.predicted} of {len(report.calls)} calls predicted")
    assert "3 of 6 calls ran the shallow layers only" in lever.reason


def test_a_line_makes_another_picture_than_a_feature_that_is_held() -> None:
    held, line = (accelerated("sd", PlannedDeepCache(0.8, line=way, min_steps=1))[0] for way in (0.0, 0.8))
    assert not torch.equal(held, line)


def test_other_pipelines_are_left_alone_and_the_report_says_why() -> None:
    output, report = accelerated("wan", PlannedDeepCache(0.5, min_steps=1))
    assert torch.equal(output, run(pipeline("wan"), TINY["wan"], steps=STEPS))
    assert not report.levers[0].engaged and "skip connections" in report.levers[0].reason


def test_the_pipeline_is_as_before() -> None:
    accelerated("sd", PlannedDeepCache(0.5, min_steps=1))
    assert torch.equal(run(pipeline("sd"), TINY["sd"]), plain("sd"))
