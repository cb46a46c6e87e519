"""The recipe between its dataclasses, the editor in the browser and the axes of a sweep."""

from __future__ import annotations

import json
from typing import Any

import pytest

import accel
from accel.app import method_schema
from accel.app.settings import StudioSettings
from accel.app.sweep import PRESET, STEPS
from accel.app.ui.axes import axes_of, parse_values, suggest_values
from accel.app.ui.recipe_editor import edited_recipe, editor_value
from accel.presets import PRESETS, resolve
from accel.recipe import Recipe

RECIPE = Recipe(cache=accel.EasyCache(0.1, warmup=2), guidance=accel.AdaptiveGuidance())


def through_the_browser(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    return found


@pytest.mark.parametrize(
    ("lever", "name"), [(lever, name) for lever in method_schema.levers() for name in method_schema.methods(lever)]
)
def test_every_method_comes_back_as_it_went(lever: str, name: str) -> None:
    values = {knob.name: knob.default for knob in method_schema.methods(lever)[name]}
    try:
        method = method_schema.build(lever, name, values)
    except ValueError:
        pytest.skip(f"{name} cannot be built from its defaults alone")
    methods: dict[str, Any] = {lever: method}
    recipe = Recipe(**methods)
    assert edited_recipe(through_the_browser(editor_value(recipe))) == recipe


@pytest.mark.parametrize("name", [*PRESETS, "off"])
def test_a_preset_keeps_its_name_until_it_is_edited(name: str) -> None:
    recipe = Recipe(name="off") if name == "off" else resolve(name)
    value = through_the_browser(editor_value(recipe))
    assert value["preset"] == edited_recipe(value).name == name
    value["levers"]["cache"] = {"method": "FORA", "values": {"interval": 4}}
    changed = edited_recipe(value)
    assert changed.cache == accel.FORA(4) and changed.name == ""


def test_what_has_no_knob_stays_when_another_knob_is_turned() -> None:
    nested = accel.EasyCache(0.1, predictor=accel.Extrapolate(order=0))  # the editor chooses predictors by name only
    value = through_the_browser(editor_value(Recipe(cache=nested)))
    value["levers"]["cache"]["values"]["warmup"] = 4
    assert edited_recipe(value).cache == accel.EasyCache(0.1, warmup=4, predictor=accel.Extrapolate(order=0))


def test_a_method_without_controls_stays_as_it_is() -> None:
    searched = Recipe(cache=accel.StaticSchedule(sigmas=(1.0, 0.5, 0.01)), guidance=accel.AdaptiveGuidance())
    value = through_the_browser(editor_value(searched))
    assert edited_recipe(value) == searched
    value["levers"]["guidance"]["values"]["threshold"] = 0.9
    assert edited_recipe(value) == Recipe(cache=searched.cache, guidance=accel.AdaptiveGuidance(0.9))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "choose a preset"),
        ({"levers": {"cache": None}}, "the controls of cache hold no method"),
        ({"levers": {"cache": {"method": "Warp", "values": {}}}}, "there is no cache method 'Warp'"),
        ({"levers": {"cache": {"method": "EasyCache", "values": {"threshold": "x"}}}}, "threshold must be a number"),
    ],
)
def test_what_is_no_recipe_is_refused_in_a_sentence(value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        edited_recipe(value)


def test_a_sweep_is_offered_what_the_recipe_has_the_deciding_knobs_first() -> None:
    axes = [axis for _, axis in axes_of(RECIPE)]
    assert axes[0] == PRESET and axes[-1] == STEPS
    assert axes[1:3] == ["cache.threshold", "guidance.threshold"]
    assert "cache.warmup" in axes and not any(axis.startswith("sampler.") for axis in axes)


def test_suggested_values_lie_around_the_present_one_and_within_its_range() -> None:
    settings = StudioSettings(recipe=RECIPE, steps=20)
    assert parse_values(suggest_values(settings, "cache.threshold")) == [0.04, 0.07, 0.1, 0.15, 0.22]
    assert parse_values(suggest_values(settings, "cache.warmup")) == [1, 2, 3, 4]
    assert max(parse_values(suggest_values(settings, "guidance.start"))) <= 1.0
    assert parse_values(suggest_values(settings, STEPS)) == [15, 10, 7, 5]
    assert parse_values(suggest_values(settings, PRESET)) == list(PRESETS)


def test_typed_values() -> None:
    assert parse_values("1, 0.5; fast") == [1, 0.5, "fast"]
    with pytest.raises(ValueError, match="a sweep needs values"):
        parse_values(" , ")
