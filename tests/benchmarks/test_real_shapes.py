"""Real shapes are those that were published, and what is measured on them adds up."""

from __future__ import annotations

import pytest
import torch

from accel.recipe import Recipe
from benchmarks.real_models import MODELS
from benchmarks.real_shapes import HALF, LEVERS, Loop, formula, overhead

PUBLISHED = {
    "Wan 2.1 1.3B, 480p": (30, 32760, 1.4e9),
    "FLUX.1, 1024 px": (57, 4608, 11.9e9),
    "HunyuanVideo, 720p": (60, 119056, 12.8e9),
    "CogVideoX 5B, 480p": (42, 17776, 5.6e9),
}


@pytest.mark.part(2)
@pytest.mark.parametrize("name", MODELS)
def test_depth_tokens_and_parameters_are_the_published_ones(name: str) -> None:
    model = MODELS[name]
    with torch.device("meta"):
        count = {argument: length for argument, (_, length) in model.blocks.items()}
        whole = model.transformer(**model.config, **count)
    parameters = sum(parameter.numel() for parameter in whole.parameters())
    assert (model.depth, model.layout.tokens) == PUBLISHED[name][:2]
    assert parameters == pytest.approx(PUBLISHED[name][2], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_cache_holds_no_more_than_its_formula(name: str) -> None:
    model = MODELS[name]
    pipe = model.build(1, torch.device("cpu"), torch.bfloat16)
    loop = Loop(model, pipe, model.smaller(0.001))
    times, report = loop.run(Recipe(cache=HALF))
    assert {one.computed for one in times} == {True, False}
    assert 0 < report.levers[0].extra_bytes <= formula(loop)


def test_levers_add_microseconds_to_a_step() -> None:
    assert [label for label, *_ in overhead(20, rounds=1)] == [*LEVERS]
