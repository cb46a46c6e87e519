"""What will engage on a pipeline is known before anything runs, and is what a session then does."""

from __future__ import annotations

import diffusers
import pytest

import accel
from accel.anatomy import inspect
from accel.lever import InactiveLever
from accel.method import Method
from accel.outlook import outlook
from accel.recipe import LEVERS
from tests.tiny import TINY


@pytest.mark.parametrize("name", ["wan", "sd", "flux"])
def test_methods_fit_or_say_why_as_they_do_in_a_session(name: str) -> None:
    pipe = TINY[name].build()
    found = outlook(inspect(pipe))
    assert set(found.fitting) == set(LEVERS) & set(Method.registry)
    for lever, names in found.fitting.items():
        assert not set(names) & set(found.idle[lever])
    for method in found.fitting["cache"]:
        with accel.accelerate(pipe, cache=next(iter(Method.registry["cache"][method].for_comparison()))) as session:
            assert not any(isinstance(part, InactiveLever) for part in session._levers), method


def test_a_scheduler_under_which_presets_promise_nothing_is_named() -> None:
    pipe = TINY["sd"].build()
    pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    found = outlook(inspect(pipe))
    assert all("under DDPMScheduler" in why for why in found.doubts.values())
    told = str(found)
    assert "presets that promise something here: none\n" in told and told.count("under DDPMScheduler") == 1
