"""Caches under what people switch on for a GPU: 16 bits, autocast, inference mode, compiled blocks, CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch._dynamo.utils import counters

import accel
from accel import Recipe
from accel.caching import Extrapolate, FixedInterval, OptimalSchedule
from tests.accel.witness import pipeline
from tests.devices.cases import ADAPTIVE, SOON, STATIC
from tests.tiny import TINY, run

BOUNDARY = {
    label: recipe
    for label, recipe in (STATIC | ADAPTIVE).items()
    if recipe.cache is not None
    and recipe.attention is None
    and label not in ("DeepCache", "DeepCache, planned", "PAB", "FORA", "SmoothCache")
}
FAST = ("planned", "EasyCache")
STEPS = 6

every_cache = pytest.mark.parametrize(
    "label", [pytest.param(label, marks=() if label in FAST else pytest.mark.slow) for label in BOUNDARY]
)


def accelerated(pipe: Any, name: str, recipe: Recipe) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipe, recipe) as session:
        return run(pipe, TINY[name], steps=STEPS), session.report()


@pytest.mark.part(1)
@every_cache
def test_inference_mode_changes_nothing(label: str) -> None:
    expected, _ = accelerated(pipeline("wan"), "wan", BOUNDARY[label])
    with torch.inference_mode():
        found, _ = accelerated(pipeline("wan"), "wan", BOUNDARY[label])
    assert torch.equal(found, expected)


@pytest.mark.part(1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_cache
def test_weights_of_16_bits_keep_their_data_type_and_stay_near(label: str, dtype: torch.dtype) -> None:
    pipe = TINY["flux"].build().to(dtype)
    with accel.accelerate(pipe, BOUNDARY[label]) as session, outputs(pipe) as seen:
        found = run(pipe, TINY["flux"], steps=STEPS)
    plain = run(pipe, TINY["flux"], steps=STEPS)
    assert {one.dtype for one in seen} == {dtype}
    assert torch.isfinite(found).all()
    expected, report = accelerated(pipeline("flux"), "flux", BOUNDARY[label])
    if report.timeline() == session.report().timeline():
        far = (run(pipeline("flux"), TINY["flux"], steps=STEPS) - plain).norm()  # what 16 bits alone change
        assert (found - expected).norm() <= 6 * far


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_forecasts_are_made_in_float32(dtype: torch.dtype) -> None:
    """Far beyond the computed steps the weights are large and of opposite sign: in 16 bits their sum would be noise."""
    from accel.caching.extrapolate import _weighted

    values = [torch.tensor([1000.0, 1.0], dtype=dtype), torch.tensor([1008.0, 1.5], dtype=dtype)]
    assert _weighted(values, [-30.0, 31.0]).tolist() == [1248.0, 16.5]


def test_autocast_leaves_the_latents_in_their_data_type() -> None:
    pipe, recipe = TINY["wan"].build(), BOUNDARY["planned"]
    with torch.autocast("cpu", torch.bfloat16), accel.accelerate(pipe, recipe) as session, outputs(pipe) as seen:
        found = run(pipe, TINY["wan"], steps=STEPS)
    with torch.autocast("cpu", torch.bfloat16):
        plain = run(pipe, TINY["wan"], steps=STEPS)
    assert session.report().predicted and len({one.dtype for one in seen}) == 1
    assert (found - plain).norm() < 0.5 * plain.norm()


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["flux", "ltx"])
@every_cache
def test_outputs_that_the_next_evaluation_writes_over_are_not_kept(name: str, label: str) -> None:
    """A captured CUDA graph has its inputs and outputs at fixed addresses."""
    expected, _ = accelerated(pipeline(name), name, BOUNDARY[label])
    pipe = TINY[name].build()
    with one_output_memory(pipe):
        found, report = accelerated(pipe, name, BOUNDARY[label])
    assert torch.equal(found, expected)
    assert any(call.action != "predicted" for call in report.calls)


@pytest.mark.slow
def test_compiled_blocks_are_one_whole_graph_that_is_never_made_again() -> None:
    torch._dynamo.reset()
    counters.clear()
    pipe = TINY["wan"].build()
    pipe.transformer.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    plain, caches = run(pipe, TINY["wan"], steps=STEPS), ("planned", "EasyCache", "FirstBlockCache")
    graphs = counters["stats"]["unique_graphs"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for label in caches:
            assert accelerated(pipe, "wan", BOUNDARY[label])[1].predicted
        for label in ("difference carried", "UniPC", "four levers"):
            assert accelerated(pipe, "wan", STATIC[label])[1].levers[0].engaged
        for label in ("tiles", "layers in bfloat16"):  # they do not reach into compiled blocks, and say so
            assert "inside" in accelerated(pipe, "wan", STATIC[label])[1].levers[0].reason
        assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), plain)
    assert counters["stats"]["unique_graphs"] == graphs and not counters["recompiles"]


@pytest.mark.part(1)
@pytest.mark.parametrize("predictor", [Extrapolate(1), Extrapolate(2, space="x0")])
def test_memory_of_the_report_is_what_the_docstring_says(predictor: Extrapolate) -> None:
    """max(order + 2, corrector) outputs, and with the corrector one float32 more, of latent size, per stream."""
    for cache in (
        OptimalSchedule(0.5, min_steps=1, predictor=predictor),
        FixedInterval(3, predictor=predictor, **SOON),
    ):
        with accel.accelerate(pipeline("flux"), Recipe(cache=cache)) as session, outputs(pipeline("flux")) as seen:
            run(pipeline("flux"), TINY["flux"], steps=12)
        size = seen[0].numel() * seen[0].element_size()
        assert session.report().levers[0].extra_bytes == size * (predictor.depth + 1)


@pytest.mark.parametrize(("name", "streams", "used"), [("wan", 2, 3), ("sd", 2, 4)])
def test_solvers_that_use_several_outputs_cost_two_more_for_each_besides_the_newest(
    name: str, streams: int, used: int
) -> None:
    """UniPC uses three and PNDM four; a plan may never have all of them to correct at once."""
    cache = OptimalSchedule(0.5, min_steps=1)
    with accel.accelerate(pipeline(name), Recipe(cache=cache)) as session:
        output = run(pipeline(name), TINY[name], steps=12)
    held = session.report().levers[0].extra_bytes / output.nbytes / streams
    formula = cache.predictor.depth + 1 + 2 * (used - 1)
    assert formula - 1 <= held <= formula


@contextmanager
def outputs(pipe: Any) -> Iterator[list[torch.Tensor]]:
    """What the pipeline gets from its denoiser."""
    kind, seen = type(pipe.scheduler), list[torch.Tensor]()
    step = kind.step

    def noting(self: Any, model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self is pipe.scheduler:  # and no copy of it that is asked what its updates do
            seen.append(model_output)
        return step(self, model_output, *args, **kwargs)

    with patch.object(kind, "step", noting):
        yield seen


@contextmanager
def one_output_memory(pipe: Any) -> Iterator[None]:
    """Every evaluation of one shape writes its output to the same memory."""
    kind, memory = type(pipe.transformer), dict[torch.Size, torch.Tensor]()
    forward = kind.forward

    def replayed(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        kept = memory.setdefault(output[0].shape, torch.empty_like(output[0]))
        kept.copy_(output[0])
        return (kept, *output[1:])

    with patch.object(kind, "forward", replayed):
        yield
