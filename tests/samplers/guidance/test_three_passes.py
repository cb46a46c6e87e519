"""Guidance by a prompt and by a picture: three passes in one batch, of which the one with both goes on alone."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel

import accel
from accel import AdaptiveGuidance, FixedInterval, GuidanceDelta, GuidanceInterval
from accel.report import Report
from tests.tiny.case import Ask, TinyPipeline, quiet, run
from tests.tiny.image import BETAS, image_vae
from tests.tiny.inputs import picture
from tests.tiny.unet import SHAPE, sd_arguments
from tests.tiny.weights import randomise

HALF = GuidanceInterval(low=0.5)


def build() -> Any:
    """The picture to edit is four more channels of the latents; its parts of the batch are picture, picture, none."""
    unet = UNet2DConditionModel(
        **SHAPE,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
    )
    scheduler = DDIMScheduler(**BETAS, steps_offset=1, clip_sample=False)
    parts = (image_vae(4), None, None, randomise(unet), scheduler, None, None)
    return quiet(StableDiffusionInstructPix2PixPipeline(*parts, requires_safety_checker=False))


def answer(ask: Ask) -> dict[str, Any]:
    given = sd_arguments(ask) | {"image": picture(0, 64, 64).repeat(ask.batch, 1, 1, 1), "image_guidance_scale": 1.5}
    del given["height"], given["width"]
    return given


EDIT = TinyPipeline("instruct_pix2pix", build, answer, "batched", video=False)


@cache
def pipeline() -> Any:
    return build()


def accelerated(guidance: Any, cache: Any = None, **options: Any) -> tuple[torch.Tensor, Report]:
    with accel.accelerate(pipeline(), accel.Recipe(guidance=guidance, cache=cache)) as session:
        return run(pipeline(), EDIT, **options), session.report()


def conditional_from(first: int, **options: Any) -> torch.Tensor:
    """The unaccelerated output if all three passes give what the first of them does, from this step on."""
    calls: list[int] = []

    def replace(module: Any, args: Any, output: Any) -> Any:
        calls.append(1)
        return (output[0].chunk(3)[0].repeat(3, 1, 1, 1),) if len(calls) > first else output

    handle = pipeline().unet.register_forward_hook(replace)
    try:
        return run(pipeline(), EDIT, **options)
    finally:
        handle.remove()


@pytest.mark.part(1)
@pytest.mark.parametrize("options", [{}, {"batch": 2}, {"image_guidance_scale": 2.5}], ids=str)
def test_the_pass_with_prompt_and_picture_takes_the_place_of_all(options: dict[str, Any]) -> None:
    output, report = accelerated(HALF, **options)
    torch.testing.assert_close(output, conditional_from(4, **options), rtol=2e-4, atol=2e-5)
    assert report.evaluations == pytest.approx(4 + 4 / 3)
    assert "8 of 16 unconditional passes left out" in report.levers[0].reason


@pytest.mark.part(1)
@pytest.mark.parametrize(
    "method", [AdaptiveGuidance(2.0), GuidanceDelta(growth=1.0), GuidanceInterval(low=0.0)], ids=str
)
def test_where_nothing_is_left_out_the_output_is_bit_identical(method: Any) -> None:
    output, report = accelerated(method)
    assert torch.equal(output, run(pipeline(), EDIT)) and not report.levers[0].engaged


def test_each_of_the_two_differences_is_carried() -> None:
    """Nearer to the unaccelerated output than no guidance is, and as many evaluations saved."""
    plain = run(pipeline(), EDIT)
    carried, report = accelerated(GuidanceDelta(math.inf, every=3))
    assert report.timeline() == {"pass 1": "█◐◐█◐◐█◐"}
    assert (carried - plain).norm() < 0.3 * (conditional_from(1) - plain).norm()


def test_a_cache_behind_it_forecasts_the_part_that_goes_on_alone() -> None:
    interval = FixedInterval(2, warmup=1, final=0, min_steps=1)
    first, report = accelerated(HALF, interval)
    again, _ = accelerated(HALF, interval)
    assert torch.equal(first, again) and report.predicted > 0


def test_two_scales_of_which_each_leads_somewhere_else_are_left_alone() -> None:
    output, report = accelerated(HALF, image_guidance_scale=4.0)
    assert torch.equal(output, run(pipeline(), EDIT, image_guidance_scale=4.0))
    assert "no classifier-free guidance of them" in report.levers[0].reason
