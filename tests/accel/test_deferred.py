"""What runs in front of a denoiser is computed when the denoiser reads it, for what the denoiser is evaluated for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import pytest
import torch
from diffusers import MultiControlNetModel

import accel
from accel import EasyCache, FirstBlockCache, FixedInterval, GuidanceInterval
from accel.deferred import Adapter, DeferredTensor, read_all
from accel.report import Report
from tests import tiny as tiny_pipelines
from tests.accel.residue import snapshot, traces
from tests.tiny import TINY
from tests.tiny.conditioned import CONDITIONED

ALL = {name: tiny for name, tiny in (TINY | CONDITIONED).items() if "controlnet" in name}
run = partial(tiny_pipelines.run, steps=6)
every_pipeline = pytest.mark.parametrize("name", ALL)
EVERY_OTHER = FixedInterval(2, warmup=1, final=0, min_steps=1)


@cache
def pipeline(name: str) -> Any:
    return ALL[name].build()


@contextmanager
def evaluations(pipe: Any) -> Iterator[list[int]]:
    """The samples in each evaluation of the ControlNet, counted inside of it."""
    seen: list[int] = []
    first = next(
        module for module in pipe.controlnet.modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    )
    handle = first.register_forward_hook(lambda _, args, output: seen.append(len(output)))
    try:
        yield seen
    finally:
        handle.remove()


def accelerated(name: str, **recipe: Any) -> tuple[torch.Tensor, Report, list[int]]:
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(**recipe)) as session, evaluations(pipe) as seen:
        return run(pipe, ALL[name]), session.report(), seen


@pytest.mark.part(1)
@every_pipeline
def test_a_predicted_step_does_not_pay_for_it(name: str) -> None:
    _, report, seen = accelerated(name, cache=EVERY_OTHER)
    assert len(seen) == report.computed < len(report.calls)
    assert f"computed in {len(seen)} of its {len(report.calls)} calls" in str(report)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["flux_controlnet", "sd3_controlnet"])
def test_nor_does_one_whose_cache_looks_into_the_denoiser(name: str) -> None:
    """The first block runs in each step, and reads nothing of it."""
    _, report, seen = accelerated(name, cache=FirstBlockCache(1e9, min_steps=1, max_skips=1))
    assert len(seen) == report.computed < len(report.calls)


@pytest.mark.part(1)
@every_pipeline
@pytest.mark.parametrize("cache", [FixedInterval(2, warmup=99), EasyCache(0.0)], ids=str)
def test_where_nothing_is_skipped_the_output_is_bit_identical(name: str, cache: Any) -> None:
    output, report, seen = accelerated(name, cache=cache)
    assert torch.equal(output, run(pipeline(name), ALL[name])) and len(seen) == len(report.calls)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", [name for name, tiny in ALL.items() if tiny.guidance == "batched"])
@pytest.mark.parametrize("cache", [None, EVERY_OTHER], ids=["alone", "with a cache"])
def test_half_of_the_batch_goes_through_it_where_guidance_leaves_out_the_other(name: str, cache: Any) -> None:
    _, report, seen = accelerated(name, cache=cache, guidance=GuidanceInterval(low=0.5))
    assert len(seen) == report.computed and {2 * min(seen)} == {max(seen)}
    assert sum(seen) / max(seen) == report.evaluations


def test_several_of_them_and_guess_mode() -> None:
    """In guess mode the pipeline joins what they return with zeros, so it is read before the denoiser is called."""
    pipe = CONDITIONED["sd_controlnet"].build()
    asked = CONDITIONED["sd_controlnet"].arguments(pipe)["image"]
    pipe.controlnet = MultiControlNetModel([pipe.controlnet, pipe.controlnet])
    options = {"image": [asked, asked.flip(-1)], "controlnet_conditioning_scale": [1.0, 0.5], "steps": 3}
    for guess in (False, True):
        plain = run(pipe, CONDITIONED["sd_controlnet"], guess_mode=guess, **options)
        with accel.accelerate(pipe, accel.Recipe(cache=FixedInterval(2, warmup=99))):
            assert torch.equal(run(pipe, CONDITIONED["sd_controlnet"], guess_mode=guess, **options), plain)
        with accel.accelerate(pipe, accel.Recipe(cache=EVERY_OTHER)) as session, evaluations(pipe) as seen:
            run(pipe, CONDITIONED["sd_controlnet"], guess_mode=guess, **options)
        calls = len(session.report().calls)
        assert len(seen) == 2 * (calls if guess else session.report().computed)


def test_nothing_is_left_behind() -> None:
    pipe = ALL["sd3_controlnet"].build()
    run(pipe, ALL["sd3_controlnet"])
    before = snapshot(pipe)
    with accel.accelerate(pipe, accel.Recipe(cache=EVERY_OTHER)):
        run(pipe, ALL["sd3_controlnet"])
    assert traces(pipe) == []
    assert {path for path, part in snapshot(pipe).items() if path.startswith("class") and part != before[path]} == set()
    assert torch.equal(run(pipe, ALL["sd3_controlnet"]), run(pipeline("sd3_controlnet"), ALL["sd3_controlnet"]))


class Counted:
    """Returns two outputs of what it is given, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, value: torch.Tensor, scale: float = 1.0) -> tuple[list[torch.Tensor], torch.Tensor]:
        self.calls += 1
        return [value * scale, value + 1.0], value.mean(1)


def deferred(given: torch.Tensor) -> tuple[Counted, Adapter, Any]:
    method, adapter = Counted(), Adapter()
    adapter(method, (torch.zeros_like(given),), {})  # so it is known what it returns
    return method, adapter, adapter(method, (given,), {})


def test_a_call_is_made_once_by_whatever_reads_it_first() -> None:
    given = torch.randn(4, 3)
    method, _, ((first, second), mean) = deferred(given)
    assert isinstance(first, DeferredTensor) and first.shape == (4, 3) and mean.shape == (4,) and method.calls == 1
    assert torch.equal(first + 0.0, given) and type(second * 1.0) is torch.Tensor
    assert torch.equal(mean, given.mean(1)) and method.calls == 2


def test_another_shape_is_computed_at_once_to_learn_what_it_returns() -> None:
    method, adapter, _ = deferred(torch.randn(4, 3))
    (first, _), _ = adapter(method, (torch.randn(2, 3),), {})
    assert type(first) is torch.Tensor and method.calls == 2


def test_reading_changes_no_argument_in_which_nothing_is_deferred() -> None:
    plain: dict[str, Any] = {"a": [torch.ones(1), {"b": (1, 2)}], "c": None}
    assert read_all(plain) is plain
    _, _, output = deferred(torch.randn(4, 3))
    found = read_all({"residuals": output, "other": plain})
    assert type(found["residuals"][0][0]) is torch.Tensor and found["other"] is plain


def test_the_autocast_is_that_of_the_call_and_not_of_the_reader() -> None:
    layer, given = torch.nn.Linear(3, 3).requires_grad_(False), torch.randn(4, 3)
    adapter = Adapter()
    expected = adapter(layer, (given,), {})
    late = adapter(layer, (given,), {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(read_all(late), expected) and read_all(late).dtype is torch.float32
