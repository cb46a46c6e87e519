"""Numbers as they are typed: exact, empty where nothing was typed, and refused in a sentence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the app needs gradio")

from accel.app.limits import Limits
from accel.app.settings import StudioSettings
from accel.app.ui.controls import settings_of, values_of
from accel.app.ui.number_box import decimal_number, whole_number


def typed(**changes: Any) -> list[Any]:
    """What the controls of a page hold."""
    named = dict(
        zip((each.name for each in dataclasses.fields(StudioSettings)), values_of(StudioSettings()), strict=True)
    )
    return list((named | changes).values())


def test_what_is_empty_is_left_to_the_pipeline() -> None:
    settings = settings_of(typed(width="", height=None, frames=" ", guidance=""))
    assert (settings.width, settings.height, settings.frames, settings.guidance) == (None,) * 4


@pytest.mark.parametrize("seed", [2**53 + 1, 2**63 - 1])
def test_a_large_seed_stays_exact(seed: int) -> None:
    shown = values_of(StudioSettings(seed=seed))
    assert str(seed) in shown
    assert settings_of(shown).seed == seed


@pytest.mark.parametrize("seed", [str(2**63), "9" * 20, "-1"])
def test_a_seed_out_of_range_is_one_sentence(seed: str) -> None:
    with pytest.raises(ValueError, match=rf"seed must be a whole number from 0 to {2**63 - 1}, not {seed}"):
        settings_of(typed(seed=seed)).check(Limits())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": ""}, "seed is empty"),
        ({"steps": ""}, "steps is empty"),
        ({"steps": "ten"}, "steps must be a whole number, not 'ten'"),
        ({"width": "64.5"}, "width must be a whole number"),
        ({"guidance": "7,5"}, "guidance must be a number such as 7.5, not '7,5'"),
        ({"guidance": "inf"}, "guidance must be a number"),
        ({"seed": "9" * 6000}, "seed must be a whole number, not '9{40}…'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_number_is_one_sentence(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        settings_of(typed(**changes))


def test_numbers_come_back_as_they_were_shown() -> None:
    settings = StudioSettings(seed=3, steps=12, width=96, height=64, frames=17, guidance=5.5)
    assert settings_of(values_of(settings)) == settings
    assert (whole_number("x", " 7 "), decimal_number("x", "7")) == (7, 7.0)
