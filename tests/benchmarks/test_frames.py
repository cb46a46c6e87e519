"""How far a denoiser call is from the denoiser: `python -m benchmarks.frames` shows all combinations."""

from __future__ import annotations

from typing import Any

import pytest

from accel import AdaptiveGuidance, GuidanceDelta, OptimalSchedule, Recipe, SageAttention, SeaCache, UniPC
from benchmarks.frames import most

THREE: dict[str, Any] = {"sampler": UniPC(), "guidance": AdaptiveGuidance(0.5), "cache": SeaCache(0.2)}
OTHERS: dict[str, Any] = {"sampler": UniPC(), "guidance": GuidanceDelta(), "cache": OptimalSchedule(0.5)}
LEVERS = {"three": THREE, "three others": OTHERS, "four": {**THREE, "attention": SageAttention()}}


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "pixart"])  # two calls, and one batched call that is halved
@pytest.mark.parametrize("levers", LEVERS)
def test_a_denoiser_call_passes_at_most_eight_frames(name: str, levers: str) -> None:
    assert 4 < most(name, Recipe(**LEVERS[levers])) <= 8


def test_levers_that_only_listen_add_none() -> None:
    assert most("wan", Recipe(sampler=UniPC(), attention=SageAttention())) == most("wan", Recipe()) <= 4
