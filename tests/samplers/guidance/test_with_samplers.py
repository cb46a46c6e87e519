"""Guidance and samplers together: where guidance leaves nothing out it is the sampler alone, bit for bit, and where it
does the solver goes on with what is answered."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import accel
from accel import AdaptiveGuidance, GuidanceDelta, GuidanceInterval
from accel.samplers import LCM, AdamsBashforth, DiffusersScheduler, DPMSolver, PseudoCorrector, Sampler, UniPC
from tests.accel.witness import pipeline, plain
from tests.samplers.guidance.reference import cut, overridden
from tests.tiny import TINY, run
from tests.tiny.kinds import crossed

PIPELINES = ["wan", "wan_two_experts", "sdxl", "mochi"]
SAMPLERS: dict[str, Sampler] = {
    "pseudo-corrector": PseudoCorrector(),
    "Adams-Bashforth": AdamsBashforth(3),
    "DPM-Solver++": DPMSolver(),
    "UniPC": UniPC(3),
    "LCM": LCM(),
}
NEVER: dict[str, Any] = {
    "adaptive": AdaptiveGuidance(2.0),
    "adaptive, for good": AdaptiveGuidance(2.0, rest="conditional"),
    "interval": GuidanceInterval(low=0.0),
    "delta": GuidanceDelta(growth=1.0),
}
SAVING: dict[str, Any] = {
    "adaptive": AdaptiveGuidance(-1.0, start=0.5, rest="conditional"),
    "delta": GuidanceDelta(math.inf, every=3),
}
every_pair = crossed("sampler", SAMPLERS, PIPELINES, kinds=["wan"])


def together(name: str, guidance: Any, sampler: Sampler | None) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipeline(name), accel.Recipe(guidance=guidance, sampler=sampler)) as session:
        return run(pipeline(name), TINY[name]), session.report()


@pytest.mark.part(1)
@every_pair
def test_guidance_that_is_never_left_out_is_the_sampler_alone(name: str, sampler: str) -> None:
    alone, _ = together(name, None, SAMPLERS[sampler])
    method = list(NEVER.values())[list(SAMPLERS).index(sampler) % len(NEVER)]
    assert torch.equal(together(name, method, SAMPLERS[sampler])[0], alone)


@pytest.mark.part(1)
@every_pair
@pytest.mark.parametrize("method", SAVING)
def test_passes_are_left_out_with_every_solver(name: str, sampler: str, method: str) -> None:
    output, report = together(name, SAVING[method], SAMPLERS[sampler])
    assert torch.isfinite(output).all()
    assert all(lever.engaged for lever in report.levers)
    assert report.levers[0].reason.startswith("8 of 8 updates replaced")


@pytest.mark.part(1)
@every_pair
def test_the_solver_sees_the_answers_that_the_pipeline_combined(name: str, sampler: str) -> None:
    """No guidance from the fifth step on, against a pipeline whose unconditional outputs are overwritten by hand."""
    output, _ = together(name, GuidanceInterval(low=0.5), SAMPLERS[sampler])
    pipe = TINY[name].build()
    with overridden(name, pipe, cut(4)), accel.accelerate(pipe, accel.Recipe(sampler=SAMPLERS[sampler])):
        expected = run(pipe, TINY[name])
    assert (output - expected).norm() < 1e-4 * expected.norm()
    assert not torch.equal(expected, together(name, None, SAMPLERS[sampler])[0])


def test_guidance_goes_with_an_exchanged_scheduler() -> None:
    sampler = DiffusersScheduler(spacing="karras")
    alone, _ = together("sdxl", None, sampler)
    assert torch.equal(together("sdxl", AdaptiveGuidance(2.0), sampler)[0], alone)
    output, report = together("sdxl", SAVING["delta"], sampler)
    assert torch.isfinite(output).all() and all(lever.engaged for lever in report.levers)
    assert torch.equal(run(pipeline("sdxl"), TINY["sdxl"]), plain("sdxl"))
