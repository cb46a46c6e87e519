"""Fewer steps of a run that begins late or ends early: image to image, a base model and its refiner."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline

import accel
from accel.executed_steps import fewest_steps
from tests.tiny import TINY, run
from tests.tiny.case import quiet
from tests.tiny.inputs import embeddings
from tests.tiny.zoo import ZOO
from tests.tiny.zoo.inventory import pipeline_classes

STRONG = [name for name in sorted(ZOO) if "strength" in inspect.signature(pipeline_classes()[name].__call__).parameters]
QUARTER = accel.Recipe(sampler=accel.SchedulerSolver(steps=0.25))


@pytest.mark.parametrize("percent", range(1, 101))
def test_of_the_fewest_steps_the_strength_leaves_one(percent: int) -> None:
    strength = percent / 100
    number = fewest_steps({"strength": strength})
    assert int(number * strength) >= 1 and int((number - 1) * strength) == 0


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ({}, 1),
        ({"strength": None}, 1),
        ({"strength": 1.0, "denoising_end": 0.2}, 5),
        ({"strength": 0.3, "denoising_start": 0.8}, 5),  # which takes the place of the strength
        ({"denoising_start": 0.25, "denoising_end": 0.75}, 2),
        ({"strength": 0.75, "denoising_end": 0.5}, 4),
        ({"denoising_start": 0.7, "denoising_end": 0.6}, 1),
        ({"strength": torch.ones(2)}, 1),
    ],
)
def test_a_part_of_the_run_is_told_by_its_ends(call: dict[str, Any], number: int) -> None:
    assert fewest_steps(call) == number


@pytest.mark.part(6)
@pytest.mark.parametrize("name", STRONG)
def test_a_weak_strength_keeps_a_step(name: str) -> None:
    """A quarter of eight steps are two, of which a strength of 0.3 left none: noise, nothing, or an error."""
    pipe, tiny = ZOO[name].build(), ZOO[name]
    plain = run(pipe, tiny, strength=0.3)
    with accel.accelerate(pipe, QUARTER) as session:
        output = run(pipe, tiny, strength=0.3)
    assert output.shape == plain.shape and session.report().computed >= 1


def refiner() -> Any:
    pipe = quiet(StableDiffusionXLImg2ImgPipeline(**TINY["sdxl"].build().components, add_watermarker=False))
    given = TINY["sdxl"].arguments(pipe)
    latents = {
        "image": embeddings(0, 1, 4, 8, 8),
        "denoising_start": 0.8,
        "generator": torch.Generator().manual_seed(0),
    }
    del given["height"], given["width"]
    return pipe, given | latents | {"num_inference_steps": 8, "output_type": "latent"}


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_base_and_refiner_each_keep_a_step_of_their_part(spacing: str) -> None:
    base, (second, call) = TINY["sdxl"].build(), refiner()
    for pipe in (base, second):
        pipe.scheduler.register_to_config(timestep_spacing=spacing)
    with accel.accelerate(base, QUARTER) as first, accel.accelerate(second, QUARTER) as last:
        run(base, TINY["sdxl"], denoising_end=0.2)
        assert second(**call).images.shape == (1, 4, 8, 8)
    assert first.report().computed == last.report().computed == 1
