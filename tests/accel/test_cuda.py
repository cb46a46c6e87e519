"""What is counted on the hosted device, on a GPU: torch itself says there what makes the host wait."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch

import accel
from tests.accel.witness import pipeline
from tests.devices.cases import ADAPTIVE, STATIC
from tests.devices.hosted import again_and_again, most_in_a_step, note, watched
from tests.tiny import TINY, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
STEPS = 8


@cache
def on_gpu(name: str) -> Any:
    return TINY[name].build().to("cuda")


@contextmanager
def told_by_torch() -> Iterator[None]:
    """Every synchronising operation is noted with the line of ours that asked for it."""

    def show(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            note("synchronises")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["wan", "flux", "sd"])
@pytest.mark.parametrize("label", [*STATIC, *ADAPTIVE])
def test_it_gives_what_the_cpu_gives_and_waits_as_often_as_on_the_hosted_device(name: str, label: str) -> None:
    recipe = (STATIC | ADAPTIVE)[label]
    with watched() as seen, told_by_torch(), accel.accelerate(on_gpu(name), recipe) as session:
        output = run(on_gpu(name), TINY[name], steps=STEPS)
    assert most_in_a_step(again_and_again(seen.ours)) <= (label in ADAPTIVE)
    with accel.accelerate(pipeline(name), recipe) as here:
        expected = run(pipeline(name), TINY[name], steps=STEPS)
    if recipe.precision is None and here.report().timeline() == session.report().timeline():
        assert (output.cpu() - expected).norm() <= 2e-2 * expected.norm()


def test_a_captured_graph_of_a_computed_step_is_replayed_between_skipped_ones() -> None:
    """`reduce-overhead` captures the blocks as CUDA graphs, whose outputs the next replay writes over."""
    torch._dynamo.reset()
    pipe = TINY["flux"].build().to("cuda")
    recipe = STATIC["planned"]
    with accel.accelerate(pipe, recipe):
        expected = run(pipe, TINY["flux"], steps=STEPS)
        pipe.transformer.compile(mode="reduce-overhead")
        for _ in range(3):  # a warm-up, the capture, a replay
            found = run(pipe, TINY["flux"], steps=STEPS)
    assert (found - expected).norm() <= 1e-2 * expected.norm()
