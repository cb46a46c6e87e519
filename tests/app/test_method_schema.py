"""Every method's settings come from its dataclass, and turning them builds exactly the method that they describe."""

from __future__ import annotations

from typing import Any

import pytest

import accel
from accel.app import method_schema
from accel.method import Method
from accel.recipe import LEVERS

EVERY = [(lever, name) for lever in LEVERS for name in method_schema.methods(lever)]


@pytest.mark.parametrize(("lever", "name"), EVERY, ids=[name for _, name in EVERY])
def test_knobs_at_their_defaults_build_the_default_method(lever: str, name: str) -> None:
    kind = Method.registry[lever][name]
    defaults = {knob.name: knob.default for knob in method_schema.methods(lever)[name]}
    if name in ("ReDi", "ModelSwitch"):  # which need a folder or a model
        with pytest.raises(ValueError, match="must be"):
            method_schema.build(lever, name, defaults)
        return
    assert method_schema.build(lever, name, defaults) == method_schema.build(lever, name, {}) == kind()
    assert method_schema.build(lever, name, method_schema.values(kind())) == kind()


def test_a_method_that_needs_a_table_of_constants_is_not_offered() -> None:
    assert "StaticSchedule" not in method_schema.methods("cache") and "LinearAG" not in method_schema.methods(
        "guidance"
    )


def test_knobs_know_kind_range_and_choices() -> None:
    found = {knob.name: knob for knob in method_schema.methods("cache")["DiCache"]}
    assert (found["threshold"].kind, found["threshold"].least, found["threshold"].most) == ("number", 0.0, None)
    assert (found["depth"].kind, found["depth"].least, found["depth"].most) == ("integer", 1.0, 1000.0)
    assert found["mode"].kind == "choice" and found["mode"].choices == ("delta_y", "delta_minus")
    assert found["predictor"].default == "Align" and "LastOutput" in found["predictor"].choices
    assert all(knob.help for knob in found.values())
    sparse = {knob.name: knob for knob in method_schema.methods("attention")["LowPrecision"]}["sparse"]
    assert (
        sparse.choices[0] == method_schema.NONE and "Radial" in sparse.choices and "TokenMerging" not in sparse.choices
    )


def test_nested_methods_are_chosen_by_name_and_keep_their_own_parameters() -> None:
    method = accel.EasyCache(threshold=0.2, predictor=accel.Extrapolate(order=2))
    turned = method_schema.build("cache", "EasyCache", method_schema.values(method) | {"threshold": 0.3}, like=method)
    assert turned == accel.EasyCache(threshold=0.3, predictor=accel.Extrapolate(order=2))
    other = method_schema.build("cache", "EasyCache", {"predictor": "LastOutput"}, like=method)
    assert other == accel.EasyCache(threshold=0.2, predictor=accel.LastOutput())
    back = method_schema.build("cache", "EasyCache", {"predictor": "Extrapolate", "threshold": None}, like=other)
    assert back == accel.EasyCache()


def test_tables_without_a_knob_are_kept() -> None:
    method = accel.TeaCache(coefficients=(1.0, 0.0), threshold=0.2)
    turned = method_schema.build("cache", "TeaCache", {"threshold": 0.5}, like=method)
    assert turned == accel.TeaCache(coefficients=(1.0, 0.0), threshold=0.5)


def test_a_method_that_is_not_offered_can_be_turned_where_it_is_there() -> None:
    tuned = accel.StaticSchedule(sigmas=(1.0, 0.5))
    turned = method_schema.build("cache", "StaticSchedule", method_schema.values(tuned) | {"warmup": 2}, like=tuned)
    assert turned == accel.StaticSchedule(sigmas=(1.0, 0.5), warmup=2)
    with pytest.raises(ValueError, match="no cache method 'StaticSchedule'"):
        method_schema.build("cache", "StaticSchedule", {"warmup": 2})


def test_an_infinite_default_is_an_empty_control() -> None:
    high = {knob.name: knob for knob in method_schema.methods("guidance")["GuidanceInterval"]}["high"]
    assert high.default is None and method_schema.values(accel.GuidanceInterval())["high"] is None
    assert method_schema.build("guidance", "GuidanceInterval", {"high": None}) == accel.GuidanceInterval()
    never = accel.EasyCache(threshold=float("inf"))
    assert method_schema.build("cache", "EasyCache", method_schema.values(never), like=never) == never


def test_whole_numbers_come_from_javascript_as_floats() -> None:
    assert method_schema.build("cache", "FixedInterval", {"interval": 3.0}) == accel.FixedInterval(interval=3)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("Nothing", {}, "there is no cache method 'Nothing'; choose one of"),
    ("EasyCache", {"treshold": 1}, "EasyCache has no setting 'treshold'; it has"),
    ("EasyCache", {"threshold": -1}, r"EasyCache.threshold must be a number from 0"),
    ("EasyCache", {"predictor": "Euler"}, "EasyCache.predictor must be one of LastOutput"),
    ("FixedInterval", {"interval": 2.5}, "FixedInterval.interval must be a whole number"),
    ("TeaCache", {"model": 7}, "TeaCache.model must be text"),
]


@pytest.mark.parametrize(("name", "values", "sentence"), WRONG, ids=[sentence[:30] for *_, sentence in WRONG])
def test_wrong_values_are_told_in_a_sentence(name: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        method_schema.build("cache", name, values)


def test_flags_are_true_or_false() -> None:
    assert method_schema.build("attention", "Radial", {"sink": False}) == accel.Radial(sink=False)
    with pytest.raises(ValueError, match=r"Radial.sink must be true or false, not 'no'"):
        method_schema.build("attention", "Radial", {"sink": "no"})
