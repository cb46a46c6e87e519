"""docs/every-method.md has a row for every method that can be had without an argument, made of what was run."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import accel
from accel.recipe import Recipe
from benchmarks.every_method import DISTILLED, OWN, PAGE, Found, Model, page_of, runs

NAMES = [name for _, name, _ in runs()]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model("waves", prompts=1)


def made_up() -> Mapping[tuple[str, str], Found]:
    """Waves takes everything, photos nothing."""
    found = [Found("waves", name, 0.5, 30.0, 28.0, 25.0) for name in NAMES]
    found += [Found("photos", name, why="it has no blocks | to probe") for name in NAMES]
    return {each.key: each for each in [*found, *(Found("few", name, 0.75) for name in (OWN, *DISTILLED))]}


def test_every_method_has_its_row() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in [*NAMES, *DISTILLED] if f"\n| `{name}()` | " not in page] == []
    assert {"EasyCache", "Align", "GuidanceDelta", "Radial", "UniPC", "Karras"} <= set(NAMES)


def test_a_row_says_what_was_measured_or_why_nothing_was() -> None:
    page = page_of(made_up(), prompts=3)
    assert "| `EasyCache()` | 50%: 30.0 (28.0), 25.0 | – | it has no blocks / to probe |" in page
    assert "| `LCM()` | 75% |" in page and "with its own scheduler 75%." in page


def test_what_keeps_every_call_has_no_share_and_what_changes_nothing_nothing_beside() -> None:
    assert str(Found("waves", "Radial", 1.0, 36.4, 35.0, 100.0)) == "36.4 (35.0)"
    assert str(Found("waves", "UniPC", 1.0, 42.3, 41.0, 40.0)) == "42.3 (41.0), 40.0"


def test_a_run_stands_beside_as_many_plain_steps(model: Model) -> None:
    cache = accel.FixedInterval(2, warmup=1, final=1, min_steps=1)
    found = model.beside("FixedInterval", Recipe(cache=cache), steps=6, reference=6)
    assert found.why == "" and 0.0 < found.share < 1.0
    assert 0.0 < found.worst == found.mean < 100.0 and found.fewer != found.mean


def test_what_does_not_act_says_so(model: Model) -> None:
    found = model.beside("DeepCache", Recipe(cache=accel.DeepCache()), steps=2, reference=2)
    assert "skip connections of a U-Net" in found.why and str(found) == "–"
