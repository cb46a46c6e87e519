"""The sweep with hindsight: each single lever's fastest setting that keeps the promise, and no run too many."""

from __future__ import annotations

import math

from accel.caching import OptimalSchedule
from accel.recipe import Recipe
from accel.samplers import GuidanceDelta
from accel.tuning.space import Recipes, Space
from benchmarks.hindsight import Judged, judge, single_levers, sweep, text_of

SPACE = Space(("OptimalSchedule",), {"guidance": (GuidanceDelta(),)}, steps=20)


def test_a_promise_may_be_broken_as_often_as_it_says() -> None:
    values = [30.0] * 19 + [20.0]
    found = judge("one", Recipe(), lambda recipe, index: values[index], 20, 29.0, 0.95)
    assert (found.kept, found.passed, len(found.values)) == (19, True, 20)


def test_what_has_failed_is_not_run_on() -> None:
    runs: list[int] = []

    def bad(recipe: Recipe, index: int) -> float:
        runs.append(index)
        return 20.0

    found = judge("one", Recipe(), bad, 20, 29.0, 0.95)
    assert runs == [0, 1] and not found.passed and found.kept == 0


def test_every_lever_by_itself_and_no_two_together() -> None:
    assert [structure.names() for structure in single_levers(SPACE)] == [
        (f"guidance {GuidanceDelta()}",),
        ("cache OptimalSchedule",),
    ]


def test_each_dial_ends_at_the_fastest_setting_that_keeps_the_promise() -> None:
    def judged(label: str, recipe: Recipe) -> Judged:
        enough = isinstance(recipe.cache, OptimalSchedule) and recipe.cache.compute >= 0.4
        return Judged(label, recipe, (30.0 if enough else 20.0,), int(enough), enough)

    guidance, cache = sweep(SPACE, Recipes(None, 20), judged, lambda text: None)
    assert not guidance.passed
    assert cache.passed and cache.label == "OptimalSchedule at 0.40"


def test_the_sentence_names_the_best_single_lever() -> None:
    found = [
        Judged("tuned", Recipe(), (31.0, 33.0), 2, True, 4.0),
        Judged("planned at 0.40", Recipe(), (31.0, 33.0), 2, True, 2.5),
        Judged("GuidanceDelta()", Recipe(), (20.0,), 0, False, math.nan),
    ]
    text = text_of(found, 30.0, 2)
    assert (
        "keeps 29 dB on 2 of 2 prompts at 4.00x; the best single lever in hindsight, planned at 0.40, has 2.50x" in text
    )
