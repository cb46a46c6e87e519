"""Every method has a page, made from what its class says."""

from __future__ import annotations

import pytest

import accel
from accel.method import Method
from accel.recipe import LEVERS
from benchmarks.site.method_pages import PARTS, advice, kinds, method_page, navigation, pages, sources

METHODS_AND_PARTS = [kind for lever in (*LEVERS, *PARTS) for kind in kinds(lever).values()]


def test_every_method_of_a_lever_has_a_page_and_a_place_in_the_margin() -> None:
    shown = {
        address
        for section in navigation()
        for entries in section.values()
        for entry in entries
        for address in ([entry] if isinstance(entry, str) else entry.values())
    }
    assert shown == set(pages())
    assert {"EasyCache", "Radial", "GuidanceDelta", "UniPC", "Int8", "CoarseToFine"} <= {
        m.__name__ for m in METHODS_AND_PARTS
    }


@pytest.mark.parametrize("kind", METHODS_AND_PARTS, ids=lambda kind: kind.__name__)
def test_every_method_says_when_not_to_use_it(kind: type[Method]) -> None:
    assert advice(kind)


@pytest.mark.parametrize("kind", METHODS_AND_PARTS, ids=lambda kind: kind.__name__)
def test_every_page_says_where_the_method_comes_from_and_what_was_measured(kind: type[Method]) -> None:
    assert sources(kind)
    assert "## Measured" in method_page(kind)


def test_papers_are_links_and_what_is_our_own_says_so() -> None:
    assert sources(accel.EasyCache) == ["[arXiv 2507.02860](https://arxiv.org/abs/2507.02860)"]
    assert "[arXiv 2312.00858]" in method_page(accel.DeepCache)
    assert "**Comes from**: this project; not published." in method_page(accel.OptimalSchedule)


def test_a_page_has_source_settings_and_numbers() -> None:
    page = method_page(accel.EasyCache)
    assert "accel.accelerate(pipe, cache=accel.EasyCache())" in page
    assert "**Source**: EasyCache (arXiv 2507.02860)" in page
    assert "| `threshold` | 0.05 | from 0 |" in page
    assert "| EasyCache: 3x | 2.92x | 40.1 |" in page  # docs/frontier/frontier.txt
    assert "- Not for runs of few steps." in page


def test_a_method_that_needs_something_is_shown_with_an_open_argument() -> None:
    assert "accel.ReDi(...)" in method_page(accel.ReDi)
