"""Schedulers are equal where they would answer alike, and only there."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

from accel.scheduler_state import state_of
from accel.schedulers import scheduler_anatomy


def test_equal_settings_are_equal_and_answered_by_one_asking() -> None:
    first, second = UniPCMultistepScheduler(), UniPCMultistepScheduler()
    assert state_of(first) == state_of(second)
    assert scheduler_anatomy(first) is scheduler_anatomy(second)


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
