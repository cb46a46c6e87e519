"""The comparison of caches on sound."""

from __future__ import annotations

import numpy as np
import pytest

import accel
from benchmarks import sound
from benchmarks.judges.roster import SOUNDS


@pytest.mark.parametrize("prompt", [prompt for prompt in SOUNDS.prompts if not prompt.startswith(("rise", "fall"))])
def test_the_pitch_of_drawn_sounds_is_heard(prompt: str) -> None:
    pitch = prompt.split()[1]
    drawn = SOUNDS.draw(np.random.default_rng(0), SOUNDS.language.words(prompt))
    assert sound.heard(drawn, prompt).correct
    other = next(name for name in sound.PITCHES if name != pitch)
    assert not sound.heard(drawn, prompt.replace(pitch, other)).correct


def test_a_line_has_a_number_for_each_column() -> None:
    recipes = [("mine", accel.Recipe(cache=accel.FixedInterval(2)))]
    found = accel.compare(
        SOUNDS.load(), recipes, SOUNDS.prompts[:1], steps=12, verify=sound.heard, fewer_steps=False, progress=False
    )
    for row in found.rows:
        assert sound.line(row).count("|") == sound.HEAD.count("|")
    assert "| - |" in sound.line(found.rows[0]) and "| - |" not in sound.line(found.rows[1])
