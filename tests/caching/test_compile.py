"""Caches at the denoiser's boundary leave compiled graphs alone: nothing is recompiled, whatever is skipped."""

from itertools import product

import pytest
import torch
from torch._dynamo.utils import counters

import accel
from accel import EasyCache, FixedInterval, LastResidual, SeaCache
from tests.accel.witness import pipeline
from tests.tiny import TINY, run

CACHES = {
    "interval": FixedInterval(2, min_steps=1),
    "interval, residual": FixedInterval(2, predictor=LastResidual(), min_steps=1),
    "sea": SeaCache(0.7, min_steps=1),
    "easy": EasyCache(0.5, min_steps=1),
}


FAST = [("interval", False), ("easy", True)]


def compiled(backend="eager", whole=False):
    torch._dynamo.reset()
    counters.clear()
    pipe = TINY["wan"].build()
    if whole:
        pipe.transformer.compile(backend=backend)
    else:
        pipe.transformer.compile_repeated_blocks(backend=backend)
    return pipe


def accelerated(pipe, cache):
    """The output with this cache, which must have skipped some steps and computed others."""
    with accel.accelerate(pipe, cache=cache) as session:
        output = run(pipe, TINY["wan"])
    assert all({"█", "·"} == set(timeline) for timeline in session.report().timeline().values())
    return output


def graphs():
    return counters["stats"]["unique_graphs"]


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("label", "whole"),
    [
        *FAST,
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in product(CACHES, (False, True)) if pair not in FAST),
    ],
)
def test_one_graph_serves_plain_accelerated_and_restored_runs(label, whole):
    pipe = compiled(whole=whole)
    before = run(pipe, TINY["wan"])
    known = graphs()
    assert known >= 1
    with torch._dynamo.config.patch(error_on_recompile=True):
        output = accelerated(pipe, CACHES[label])
        after = run(pipe, TINY["wan"])
    assert graphs() == known and not counters["recompiles"]
    assert torch.equal(after, before)
    torch.testing.assert_close(output, accelerated(pipeline("wan"), CACHES[label]), rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # the test above has the same with a quicker backend
@pytest.mark.part(1)
@pytest.mark.parametrize("label", ["interval", "easy"])
def test_a_graph_that_was_made_in_an_accelerated_run_serves_the_others(label):
    """aot_eager traces through autograd's graphs as inductor does; the blocks are of one class and one graph."""
    pipe = compiled("aot_eager")
    output = accelerated(pipe, CACHES[label])
    assert graphs() == 1
    with torch._dynamo.config.patch(error_on_recompile=True):
        run(pipe, TINY["wan"])
        assert torch.equal(accelerated(pipe, CACHES[label]), output)
    assert graphs() == 1 and not counters["recompiles"]


@pytest.mark.slow  # tests a count of the tests
def test_the_count_sees_a_recompilation():
    """Another size needs another graph, and that is noticed."""
    pipe = compiled()
    run(pipe, TINY["wan"], steps=1)
    known = graphs()
    with torch._dynamo.config.patch(error_on_recompile=True), pytest.raises(Exception, match=r"[Rr]ecompil"):
        run(pipe, TINY["wan"], steps=1, size="other")
    run(pipe, TINY["wan"], steps=1, size="other")
    assert graphs() > known
