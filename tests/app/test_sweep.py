"""The points of a sweep, and the manifest of them that the renderer reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.app.limits import Limits
from accel.app.settings import StudioSettings
from accel.app.sweep import manifest, points
from accel.presets import PRESETS
from accel.recipe import Recipe
from accel.rendering import plan_for

BASE = StudioSettings(
    prompt="a red circle moves left on a dark background",
    recipe=Recipe(cache=accel.EasyCache(predictor=accel.LastOutput()), guidance=accel.GuidanceInterval()),
)


def test_every_combination_is_a_point_with_a_label() -> None:
    found = points(BASE, {"cache.threshold": [0.1, 0.2], "guidance.low": [0.3, 0.5]}, Limits())
    assert [point.label for point in found] == [
        "threshold 0.1, low 0.3", "threshold 0.1, low 0.5", "threshold 0.2, low 0.3", "threshold 0.2, low 0.5"
    ]  # fmt: skip
    assert found[2].settings.recipe == Recipe(
        cache=accel.EasyCache(0.2, predictor=accel.LastOutput()), guidance=accel.GuidanceInterval(low=0.3)
    )
    assert not any(point.changed_fields(BASE) for point in found)


def test_presets_come_before_the_settings_of_their_methods() -> None:
    (fast,) = points(BASE, {"cache.max_skips": [3], "recipe.preset": ["fast"]}, Limits())
    cache = PRESETS["fast"].recipe.cache
    assert isinstance(cache, accel.OptimalSchedule) and cache.max_skips != 3
    assert fast.settings.recipe == Recipe(cache=replace(cache, max_skips=3))


def test_fewer_steps_are_the_unaccelerated_rival_of_the_same_baseline() -> None:
    (rival,) = points(BASE, {"call.steps": [10]}, Limits())
    assert (rival.settings.steps, rival.settings.recipe.methods(), rival.label) == (10, {}, "steps 10")
    assert rival.changed_fields(BASE) and rival.key(BASE) != rival.settings.key()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "a sweep needs a setting"),
    ({"cache.threshold": []}, "must be a list of at least one"),
    ({"cache.threshold": "0.1"}, "must be a list"),
    ({"cache.threshold": [0.1] * 40}, "has 40 points; this server takes at most 36"),
    ({"cache.thresh": [0.1]}, "EasyCache has no setting 'thresh'"),
    ({"cache.threshold": [-1.0]}, "must be a number from 0"),
    ({"sampler.steps": [0.5]}, "no sampler method, so there is no steps to turn"),
    ({"threshold": [0.1]}, "is no setting; write lever.setting"),
    ({"recipe.preset": ["best"]}, "no preset"),
    ({"call.steps": [0]}, "steps must be a whole number"),
]


@pytest.mark.parametrize(("axes", "sentence"), WRONG, ids=[sentence[:30] for _, sentence in WRONG])
def test_wrong_axes_are_told_in_a_sentence(axes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        points(BASE, axes, Limits())


def test_the_manifest_renders_the_points(tmp_path: Path) -> None:
    path = tmp_path / "grid.jsonl"
    path.write_text(manifest(BASE, {"cache.threshold": [0.1, 0.2]}, Limits()) + manifest(BASE, {}, Limits()))
    plan = plan_for(None, path)
    thresholds = [job.recipe["cache"]["threshold"] for job in plan.jobs]
    assert thresholds == [0.1, 0.2, 0.05] and {job.prompt for job in plan.jobs} == {BASE.prompt}
    assert [json.loads(line)["recipe"]["cache"]["threshold"] for line in path.read_text().splitlines()] == thresholds
