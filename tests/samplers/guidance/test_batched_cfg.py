"""Guidance in one batched call: whatever has the batch among its sizes is halved, and each step is one launch."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import accel
from accel import FORA, DeepCache, FirstBlockCache, FixedInterval, GuidanceDelta, GuidanceInterval
from accel.report import Report
from tests.samplers.guidance.reference import FIRST_HALF, _Batched, cut
from tests.tiny import TINY, TinyPipeline, run
from tests.tiny.conditioned import CONDITIONED
from tests.tiny.kinds import kinds_only

ALL = {name: tiny for name, tiny in TINY.items() if tiny.guidance == "batched"} | CONDITIONED
every_pipeline = pytest.mark.parametrize("name", ALL)

HALF = GuidanceInterval(low=0.5)
COMES_AND_GOES = GuidanceDelta(math.inf, every=3)
PICTURES = [name for name, tiny in CONDITIONED.items() if not tiny.video]


@cache
def pipeline(name: str) -> DiffusionPipeline:
    return ALL[name].build()


@cache
def plain(name: str, **options: Any) -> torch.Tensor:
    return run(pipeline(name), ALL[name], **options)


class Launches:
    """Counts from outside what reaches the first layer of the denoiser: evaluations, and samples in them."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.samples: list[int] = []
        modules = (getattr(pipe, name, None) for name in ("transformer", "unet"))
        denoiser = next(module for module in modules if module is not None)
        self._first = next(module for module in denoiser.modules() if isinstance(module, torch.nn.Linear))

    def __enter__(self) -> Launches:
        self._handle = self._first.register_forward_hook(lambda _, args, out: self.samples.append(out.shape[0]))
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def count(self, of: Launches) -> float:
        """Evaluations, where `of` saw one in each call."""
        return len(self.samples) / len(of.samples)

    def part(self, of: Launches) -> float:
        return sum(self.samples) / sum(of.samples)


def accelerated(name: str, cache: Any, method: Any, **options: Any) -> tuple[torch.Tensor, Report, Launches]:
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(cache=cache, guidance=method)) as session, Launches(pipe) as seen:
        return run(pipe, ALL[name], **options), session.report(), seen


@cache
def unaccelerated(name: str) -> Launches:
    with Launches(pipeline(name)) as seen:
        run(pipeline(name), ALL[name])
    return seen


def steps_of(name: str) -> int:
    return 9 if name.startswith("sd_") or name == "sd" else 8


@pytest.mark.part(1)
@pytest.mark.parametrize(("name", "batch"), [*((name, 1) for name in CONDITIONED), (PICTURES[0], 3)])
def test_half_of_everything_is_half_of_the_batch(name: str, batch: int) -> None:
    """Residuals and pictures' embeddings are halved as well: the output is the conditional one in both places."""
    pipe, first = pipeline(name), math.ceil(steps_of(name) / 2)
    output, report, _ = accelerated(name, None, HALF, batch=batch)
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    hear = _Batched(name, pipe, cut(first))
    handle = denoiser.register_forward_hook(hear, with_kwargs=True)
    expected = run(pipe, ALL[name], batch=batch)
    handle.remove()
    assert (output - expected).norm() <= 2e-5 * expected.norm()
    assert not torch.allclose(output, plain(name, batch=batch))
    assert list(report.timeline().values()) == ["█" * first + "◐" * (steps_of(name) - first)]


@pytest.mark.part(1)
@pytest.mark.parametrize("name", PICTURES)
def test_without_guidance_nothing_is_halved(name: str) -> None:
    output, report, _ = accelerated(name, None, HALF, guidance=False)
    assert torch.equal(output, plain(name, guidance=False))
    assert report.halved == 0 and report.launches == report.evaluations == len(report.calls)


@pytest.mark.part(1)
@kinds_only(ALL)
def test_a_pass_that_comes_and_goes_costs_no_launch(name: str) -> None:
    """One launch in each step as before, of the whole batch where the pass is due; the report says so."""
    _, report, seen = accelerated(name, None, COMES_AND_GOES)
    assert list(report.timeline().values()) == ["█◐◐█◐◐█◐◐"[: steps_of(name)]]
    assert report.launches == steps_of(name) == seen.count(unaccelerated(name)) * steps_of(name)
    assert report.evaluations == pytest.approx(seen.part(unaccelerated(name)) * steps_of(name))
    assert f"{report.halved} for half of the batch, in {report.launches} launches" in str(report)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["ltx", "sd3_controlnet", "z_image", *PICTURES])
def test_nor_does_it_with_a_cache_that_does_not_look_inside(name: str) -> None:
    cache = FixedInterval(2, warmup=1, final=0, min_steps=1)
    _, report, seen = accelerated(name, cache, COMES_AND_GOES, batch=2)
    assert report.launches == report.computed < steps_of(name)
    assert report.launches == round(seen.count(unaccelerated(name)) * steps_of(name))


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("sdxl", FORA(2, min_steps=1)),
        ("sdxl_controlnet", DeepCache(2, min_steps=1)),
        ("sd3", FirstBlockCache(math.inf, min_steps=1, max_skips=1)),
    ],
    ids=["modules", "shallow layers", "a probe"],
)
def test_launches_that_a_cache_needs_for_each_half_are_told(name: str, cache: Any) -> None:
    _, report, _ = accelerated(name, cache, COMES_AND_GOES)
    more = report.launches - len(report.calls)
    assert more > 0
    assert f"{more} more launches" in next(lever.reason for lever in report.levers if lever.lever == "guidance")


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sdxl", "ltx", "animatediff_controlnet", "z_image"])
@pytest.mark.parametrize("cache", [None, FixedInterval(1, warmup=1, final=0, min_steps=1)], ids=["alone", "cache"])
def test_a_difference_measured_at_every_step_changes_nothing(name: str, cache: Any) -> None:
    output, report, _ = accelerated(name, cache, GuidanceDelta(growth=1.0))
    assert torch.equal(output, plain(name)) and report.launches == steps_of(name)


def test_the_first_halves_are_where_the_reference_has_them() -> None:
    assert set(FIRST_HALF) <= set(ALL) and all(isinstance(tiny, TinyPipeline) for tiny in ALL.values())
