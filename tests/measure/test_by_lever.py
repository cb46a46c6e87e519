"""What each lever of a recipe saves: which runs show it, and what they show."""

from __future__ import annotations

from dataclasses import replace

import pytest

import accel
from accel import pocket
from accel.caching import FixedInterval
from accel.measure.by_lever import Apart, families, taken_apart
from accel.measure.measurements import BASELINE, Variant
from accel.measure.page import render_page
from accel.measure.results import Comparison
from accel.recipe import Recipe
from accel.samplers import Euler, GuidanceInterval
from tests import shallow
from tests.measure.rows import row, sample

CACHE, GUIDANCE, SAMPLER = FixedInterval(2, warmup=1, min_steps=1), GuidanceInterval(0.2, 0.7), Euler(steps=0.75)


def variants(**recipes: Recipe) -> list[Variant]:
    unaccelerated = Variant(BASELINE, "baseline", 8, Recipe())
    return [unaccelerated, *(Variant(label, "recipe", 8, recipe) for label, recipe in recipes.items())]


def test_of_three_levers_each_is_left_out_and_runs_alone() -> None:
    found, apart = taken_apart(variants(all=Recipe(cache=CACHE, guidance=GUIDANCE, sampler=SAMPLER, name="all")))
    parts = {one.label: one.recipe for one in found if one.kind == "part"}
    assert set(apart["all"]) == {"cache", "guidance", "sampler"} and len(parts) == 6
    for lever, pair in apart["all"].items():
        assert set(parts[pair.without].methods()) == set(apart["all"]) - {lever}
        assert set(parts[pair.alone].methods()) == {lever}


def test_what_runs_already_does_not_run_twice() -> None:
    """Of two levers each is the other's rest, and the rest of a single one is the unaccelerated pipeline."""
    both = Recipe(cache=CACHE, guidance=GUIDANCE, name="mine")
    found, apart = taken_apart(variants(both=both, cached=Recipe(cache=CACHE)))
    assert [one.label for one in found] == [BASELINE, "both", "both without cache", "cached"]
    assert apart["both"] == {
        "cache": Apart("both without cache", "cached"),
        "guidance": Apart("cached", "both without cache"),
    }
    assert apart["cached"] == {"cache": Apart(BASELINE, "cached")}


def test_a_part_is_never_called_as_one_of_the_recipes_is() -> None:
    both, other = Recipe(cache=CACHE, guidance=GUIDANCE), Recipe(sampler=SAMPLER)
    given = variants(**{"both without cache": other, "both": both, "cache of both alone": other})
    found, apart = taken_apart([*given, Variant("theirs", "other", 8, lambda pipe: pipe)])
    labels = [one.label for one in found]
    assert len(set(labels)) == len(labels)
    assert apart["both"]["cache"] == Apart("both without cache (2)", "cache of both alone (2)")


def test_presets_and_other_libraries_are_as_they_are() -> None:
    others = [Variant("fast", "recipe", 8, "fast"), Variant("theirs", "other", 8, lambda pipe: pipe)]
    found, apart = taken_apart([*variants(), *others])
    assert len(found) == 3 and set(apart) == {"fast"}


def test_recipes_that_share_a_part_run_side_by_side() -> None:
    a, b = Recipe(cache=CACHE, guidance=GUIDANCE), Recipe(cache=FixedInterval(2), guidance=GUIDANCE)
    _, apart = taken_apart(variants(a=a, b=b, alone=Recipe(sampler=SAMPLER)))
    (family,) = families(apart)
    assert {"a", "b"} < family and "alone" not in family and BASELINE not in family


def compared() -> Comparison:
    """Two rounds of which the second took twice as long: the machine was busy."""
    seconds = {BASELINE: 10.0, "both": 3.0, "cached": 4.0, "guided": 8.0}
    quality: dict[str, list[float]] = {BASELINE: [], "both": [30.0], "cached": [32.0], "guided": [100.0]}
    samples = [
        replace(sample(label, 30.0), seconds=pace * taken, before=pace, denoise=pace * (taken - 2.0), prompt=prompt)
        for prompt, pace in enumerate((1.0, 2.0))
        for label, taken in seconds.items()
    ]
    rows = [row(label, "baseline" if label == BASELINE else "recipe", 1.0, found) for label, found in quality.items()]
    apart = {"both": {"cache": Apart("guided", "cached"), "guidance": Apart("cached", "guided")}}
    return Comparison(rows, {}, {}, samples=samples, apart=apart)


def test_a_saving_is_what_the_recipe_takes_longer_without_the_lever() -> None:
    cache, guidance = compared().by_lever()
    assert (cache.recipe, cache.lever) == ("both", "cache")
    assert cache.saved == pytest.approx({"text": 0.0, "denoiser": 7.5, "decoder": 0.0, "rest": 0.0, "all": 7.5})
    assert cache.saved_range == (5.0, 10.0), "each round by itself"
    assert cache.saved_alone["all"] == pytest.approx(9.0)
    assert guidance.saved["all"] == pytest.approx(1.5) and guidance.saved_alone["all"] == pytest.approx(3.0)


def test_its_cost_is_what_the_others_alone_would_keep() -> None:
    cache, guidance = compared().by_lever()
    assert guidance.cost == pytest.approx(2.0)
    assert cache.cost is None and cache.decibels_without is None, "without it the output is exact"
    assert (cache.decibels, cache.decibels_alone, guidance.decibels_alone) == (30.0, 32.0, None)


def test_a_lever_whose_runs_are_missing_is_left_out() -> None:
    """As after Ctrl-C."""
    found = compared()
    found.rows = [one for one in found.rows if one.label != "guided"]
    assert found.by_lever() == []


@pytest.fixture(scope="module")
def measured() -> Comparison:
    call = {"num_frames": 5, "height": 32, "width": 32}
    both = Recipe(cache=CACHE, sampler=SAMPLER)
    return accel.compare(
        shallow.load("video"), [("both", both)], pocket.prompts(1, 1), steps=8, call_arguments=call,
        fewer_steps=False, by_lever=True, progress=False,
    )  # fmt: skip


def test_a_comparison_measures_the_parts_beside_the_whole(measured: Comparison) -> None:
    assert [one.label for one in measured.rows] == [BASELINE, "both", "both without cache", "cache of both alone"]
    assert {one.batch for one in measured.samples} == {0}
    cache, sampler = measured.by_lever()
    assert cache.without == sampler.alone == "both without cache"
    assert all(one.decibels is not None and one.decibels_alone is not None for one in (cache, sampler))
    assert measured.row("both").computed < measured.row(cache.without).computed < measured.rows[0].computed
    assert [saving["lever"] for saving in measured.to_dict()["by_lever"]] == ["cache", "sampler"]


def test_table_and_page_show_them(measured: Comparison) -> None:
    text, page = str(measured), render_page(measured)
    assert "What each lever saved" in text and "What each lever saved" in page
    lines = text.partition("What each lever saved")[2].splitlines()
    assert any(line.split()[:2] == ["both", "cache"] and " to " in line for line in lines)
    assert "<td>both</td><td>sampler</td>" in page
    assert "evaluations (about" in page, "and what was counted in one run"
