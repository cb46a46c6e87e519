"""Schedulers are equal where they would answer alike, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from accel.scheduler_state import state_of
from accel.schedulers import scheduler_anatomy


def test_equal_settings_are_equal_and_answered_by_one_asking() -> None:
    first, second = UniPCMultistepScheduler(), UniPCMultistepScheduler()
    assert state_of(first) == state_of(second)
    assert scheduler_anatomy(first) is scheduler_anatomy(second)


@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler])
def test_what_a_run_has_left_in_it_asks_nothing_anew(kind: Any) -> None:
    used = kind()
    used.set_timesteps(5)
    sample = torch.ones(1, 4, 2, 2)
    for timestep in used.timesteps[:3]:
        sample = used.step(0.1 * sample, timestep, sample).prev_sample
    assert state_of(used) != state_of(kind())
    assert scheduler_anatomy(used) is scheduler_anatomy(kind())


def test_another_setting_table_timetable_or_class_is_not() -> None:
    plain = state_of(DDIMScheduler())
    rescaled, asked = DDIMScheduler(), DDIMScheduler()
    rescaled.alphas_cumprod = rescaled.alphas_cumprod * 0.9  # as scripts do for zero terminal SNR
    asked.set_timesteps(7)

    class Mine(DDIMScheduler):
        pass

    for other in (DDIMScheduler(prediction_type="v_prediction"), rescaled, asked, Mine(), EulerDiscreteScheduler()):
        assert state_of(other) != plain


def test_what_cannot_be_compared_is_asked_anew() -> None:
    patched, own = DDIMScheduler(), DDIMScheduler()
    patched.step = lambda *_, **__: None
    own.something = torch.nn.Linear(2, 2)
    assert state_of(patched) is None and state_of(own) is None
    assert scheduler_anatomy(own) == scheduler_anatomy(DDIMScheduler())
