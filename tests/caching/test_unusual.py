"""Pipelines whose answers or steps are unlike all others': right where they can be accelerated, else left alone, and
the report says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.utils import BaseOutput

import accel
from accel import FORA, EasyCache, FirstBlockCache, FixedInterval, LastOutput, LastResidual, SeaCache
from accel.caching import conditions
from accel.call import carries_state, rebuilt, tensors
from accel.report import Report
from tests.tiny import TinyPipeline, run
from tests.tiny.unusual import UNUSUAL

CACHES = [
    FixedInterval(2, warmup=1),
    FixedInterval(3),
    FixedInterval(3, predictor=LastOutput()),
    FixedInterval(3, predictor=LastResidual()),
    EasyCache(0.3),
    SeaCache(0.3),
    FirstBlockCache(0.2),
    FORA(3),
]


def accelerated(pipe: Any, tiny: TinyPipeline, cache: Any, **options: Any) -> tuple[torch.Tensor, Report]:
    with accel.accelerate(pipe, cache=cache) as session:
        latents = run(pipe, tiny, **options)
    return latents, session.report()


def level(wrong: torch.Tensor, right: torch.Tensor) -> float:
    """PSNR in decibels, with the largest value as the peak."""
    return float(20 * torch.log10(right.abs().max() / (wrong - right).pow(2).mean().sqrt().clamp_min(1e-12)))


# Answers of another shape: Qwen-Image 2.1


# Without the key-value cache no answer has the shape of the input, so that there is no residual to compare with.
@pytest.mark.part(1)
@pytest.mark.parametrize("cache", [one for one in CACHES if "LastResidual" not in str(one)], ids=str)
def test_a_longer_first_answer_changes_nothing_for_any_cache(cache: Any) -> None:
    tiny = UNUSUAL["qwen_image21"]
    pipe = tiny.build()
    levels = []
    for keeps in (False, True):  # its key-value cache, with which the first output is longer
        right = run(pipe, tiny, steps=12, use_kv_cache=keeps)
        latents, report = accelerated(pipe, tiny, cache, steps=12, use_kv_cache=keeps)
        levels.append(level(latents, right))
        assert report.levers[0].engaged
    assert levels[1] > min(levels[0] - 3, 60)


# Answers that carry state: AnyFlow, chunk by chunk


@pytest.mark.part(1)
@pytest.mark.parametrize("cache", [FixedInterval(3), SeaCache(0.3), FirstBlockCache(0.2)], ids=str)
def test_answers_that_carry_state_are_computed(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its attention is torch's flexible one, which without this compiles a part of itself for three seconds.
    monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    tiny = UNUSUAL["anyflow_far"]
    pipe = tiny.build()
    latents, report = accelerated(pipe, tiny, cache, steps=3)
    assert torch.equal(latents, run(pipe, tiny, steps=3))
    assert "the output carries state" in report.levers[0].reason


@dataclass
class Answer(BaseOutput):
    sample: torch.Tensor
    rest: Any = None


@pytest.mark.parametrize(
    ("output", "carries"),
    [
        (torch.ones(1), False),
        ((torch.ones(1), [torch.ones(2)], None), False),
        (Answer(torch.ones(1)), False),
        (Answer(torch.ones(1), 3), False),
        ((torch.ones(1), {0: {"key": torch.ones(2)}}), True),
        (Answer(torch.ones(1), SimpleNamespace()), True),
    ],
)
def test_state_is_whatever_is_no_prediction(output: Any, carries: bool) -> None:
    assert carries_state(output) is carries


@pytest.mark.parametrize("output", [Answer(torch.ones(1)), ({0: torch.ones(1), "a": [torch.ones(2)]},)])
def test_any_structure_can_be_rebuilt(output: Any) -> None:
    again = rebuilt(output, [2 * value for value in tensors(output)])
    assert type(again) is type(output)
    assert [value.tolist() for value in tensors(again)] == [(2 * value).tolist() for value in tensors(output)]


# Steps that nobody hears: diffusion forcing steps a copy of the scheduler for each frame, panorama one for each view


@pytest.mark.part(1)
@pytest.mark.parametrize("cache", [FixedInterval(3), FORA(3)], ids=str)
def test_steps_on_copies_of_the_scheduler_are_told_by_the_timesteps(cache: Any) -> None:
    tiny = UNUSUAL["skyreels_df"]
    pipe, held = tiny.build(), []
    for steps in (10, 13):
        latents, report = accelerated(pipe, tiny, cache, steps=steps)
        assert list(report.timeline()) == ["cond", "uncond"]
        assert report.steps == steps
        assert "steps copies of its scheduler" in report.notes[0]
        assert report.seconds["denoise"] > report.seconds["after"]
        held.append(report.levers[0].extra_bytes)
    assert held[0] == held[1] > 0
    assert level(latents, run(pipe, tiny, steps=13)) > 35


def test_each_view_of_a_panorama_is_a_stream_and_its_scheduler_is_given_back() -> None:
    tiny = UNUSUAL["panorama"]
    pipe = tiny.build()
    right = run(pipe, tiny, steps=5, guidance=False)
    latents, report = accelerated(pipe, tiny, FixedInterval(3, warmup=2, final=1, min_steps=1), steps=5, guidance=False)
    assert list(report.timeline().values()) == 2 * ["██··█"]
    assert level(latents, right) > 35
    assert not {"step", "set_timesteps"} & set(vars(pipe.scheduler))
    assert torch.equal(run(pipe, tiny, steps=1, guidance=False), run(tiny.build(), tiny, steps=1, guidance=False))


@pytest.mark.slow  # the next one asks for its level too
@pytest.mark.part(1)
@pytest.mark.parametrize("cache", [FixedInterval(3), EasyCache(0.3), FirstBlockCache(0.2), "balanced"], ids=str)
def test_diffusion_forcing_is_accelerated_as_well_as_other_videos(cache: Any) -> None:
    tiny = UNUSUAL["skyreels_df"]
    pipe = tiny.build()
    right = run(pipe, tiny, steps=30)
    with accel.accelerate(pipe, cache) if isinstance(cache, str) else accel.accelerate(pipe, cache=cache) as session:
        latents = run(pipe, tiny, steps=30)
    lines = session.report().timeline()
    assert list(lines) == ["cond", "uncond"]
    assert all(len(line) == 30 and line[-1] == "█" and "·" in line for line in lines.values())
    assert level(latents, right) > 25


def test_frames_that_are_denoised_one_after_the_other_are_computed() -> None:
    tiny = UNUSUAL["skyreels_df"]
    pipe = tiny.build()
    latents, report = accelerated(pipe, tiny, FixedInterval(3, min_steps=1), steps=6, ar_step=2)
    assert torch.equal(latents, run(pipe, tiny, steps=6, ar_step=2))
    assert "several noise levels" in report.levers[0].reason


def test_each_piece_of_a_long_video_is_a_run_of_its_own() -> None:
    tiny = UNUSUAL["skyreels_df"]
    pipe = tiny.build()
    pieces = {"num_frames": 33, "overlap_history": 9, "base_num_frames": 17, "addnoise_condition": 20}
    latents, report = accelerated(pipe, tiny, FixedInterval(3, min_steps=1), steps=7, **pieces)
    assert report.timeline()["cond"] == 3 * "███··██"
    assert level(latents, run(pipe, tiny, steps=7, **pieces)) > 35


def test_streams_are_bounded_where_no_timestep_tells_the_steps_either(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gate", "module_gate"):
        monkeypatch.setattr(f"accel.caching.{module}.MOST_STREAMS", 4)
    monkeypatch.setattr("accel.clock.Clock._stepped_unheard", lambda *_: False)
    tiny = UNUSUAL["skyreels_df"]
    pipe = tiny.build()
    right = run(pipe, tiny, steps=6)
    held = []
    for cache in (FixedInterval(2), FORA(2)):
        latents, report = accelerated(pipe, tiny, cache, steps=6)
        assert torch.equal(latents, right)
        assert sum(call.reason == "more than 4 streams" for call in report.calls) == 8
        held.append(report.levers[0].extra_bytes)
    assert conditions.MOST_STREAMS == 256
