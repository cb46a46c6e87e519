"""What pays on a machine is told from the machine and the model, and the recipe says what it was."""

from __future__ import annotations

import pytest
import torch

import accel
from accel import BFloat16
from tests.tiny import TINY


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.precision.choosing.has_instructions", lambda: True)
    monkeypatch.setattr("accel.precision.choosing.multiplies_in_loops", lambda dtype: False)


def test_a_preset_gets_it_and_the_recipe_names_it(able: None) -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, "fast", precision="auto") as session:
        assert session.recipe.precision == BFloat16() and session.recipe.cache is not None
        assert accel.Recipe.from_dict(session.recipe.to_dict()) == session.recipe
    assert accel.accelerate(pipe, "lossless", precision="auto").recipe.precision == BFloat16(attention="own")
    assert accel.accelerate(pipe, accel.Recipe(), precision="auto").recipe == accel.Recipe(precision=BFloat16())
    accel.restore(pipe)


def test_where_it_gains_nothing_there_is_none(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = TINY["wan"].build()
    monkeypatch.setattr("accel.precision.choosing.has_instructions", lambda: False)
    assert accel.precision.automatic(pipe) is None
    monkeypatch.setattr("accel.precision.choosing.has_instructions", lambda: True)
    pipe.transformer.to(torch.bfloat16)
    with accel.accelerate(pipe, "fast", precision="auto") as session:
        assert session.recipe.precision is None and session.recipe.name == "fast"
