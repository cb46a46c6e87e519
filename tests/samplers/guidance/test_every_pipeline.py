"""What guidance methods promise for every denoising pipeline class of diffusers: they act, or truly say why not.

A dozen classes that combine their passes in ways of their own run always, all of them with `--slow`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import accel
from accel import GuidanceDelta, GuidanceInterval, Recipe
from accel.report import Report
from tests.tiny import run
from tests.tiny.zoo import ZOO

HALF = GuidanceInterval(low=0.5)

ACT = (
    "DreamLitePipeline",  # three passes, and a picture beside the latents
    "IFPipeline",  # learned variances
    "KandinskyV22Pipeline",  # conditioned by pictures alone
    "KandinskyV22PriorPipeline",  # embeddings in place of latents
    "LTXImageToVideoPipeline",  # some of the frames, arranged otherwise
    "ShapEPipeline",  # learned variances of rows of tokens
    "StableCascadeDecoderPipeline",  # the conditional half first
    "StableDiffusionInstructPix2PixPipeline",  # three passes
    "TextToVideoSDPipeline",  # frames become samples
)
IDLE = {
    "AnyFlowFARPipeline": "carries state",
    "FluxFillPipeline": "the guidance scale is an input of this model",
    "StableDiffusionPanoramaPipeline": "several calls in each step",
    "StableDiffusionXLPAGPipeline": "perturbed attention",
}
every_class = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in (*ACT, *IDLE) else pytest.mark.slow)
        for name in sorted(ZOO, key=lambda name: (name not in ACT, name))  # where one runs, it is one that acts
    ],
)


@cache
def pipeline(name: str) -> Any:
    return ZOO[name].build()


def accelerated(name: str, method: Any) -> tuple[torch.Tensor, Report]:
    with accel.accelerate(pipeline(name), Recipe(guidance=method)) as session:
        return run(pipeline(name), ZOO[name], steps=6), session.report()


@pytest.mark.slow  # test_guiders.py and test_contract.py have it
@pytest.mark.part(1)
@every_class
def test_where_nothing_is_left_out_the_output_is_bit_identical(name: str) -> None:
    output, report = accelerated(name, GuidanceInterval(low=0.0))
    assert torch.equal(output.nan_to_num(), run(pipeline(name), ZOO[name], steps=6).nan_to_num())
    assert not report.levers[0].engaged


@pytest.mark.part(2)
@every_class
def test_passes_are_left_out_or_a_sentence_says_why_not(name: str) -> None:
    _, report = accelerated(name, HALF)
    guidance = report.levers[0]
    assert guidance.engaged == (report.halved + report.dropped > 0)
    if name in ACT:
        assert guidance.engaged
    elif not guidance.engaged:
        assert IDLE.get(name, " ") in guidance.reason
        told = getattr(pipeline(name), "do_classifier_free_guidance", None)
        assert ("guidance is off" in guidance.reason) <= (told is False)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ACT)
def test_the_same_call_gives_the_same_output(name: str) -> None:
    first, report = accelerated(name, GuidanceDelta())
    again, _ = accelerated(name, GuidanceDelta())
    assert torch.equal(first, again) and report.levers[0].engaged
