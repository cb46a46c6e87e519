"""What `make levers` shows: every lever that there is."""

from __future__ import annotations

from accel.recipe import LEVERS
from benchmarks.ablation import CHOSEN, rows


def test_every_lever_is_shown_alone_and_together() -> None:
    """But for samplers, which change how many steps there are: `make trajectory` is about these."""
    levers = {label: set(recipe.methods()) for label, recipe in rows()}
    assert len(levers) == len(rows()) == 2 ** len(CHOSEN) - 1 + 2
    every = set(LEVERS) - {"sampler"}
    assert all({lever} in levers.values() for lever in every) and every in levers.values()
