"""Window attention with the residual: exact where nothing, or one line in the timestep, is what changes."""

from __future__ import annotations

import math

import pytest
import torch

from accel.attention import HiDiffusion, LowPrecision, TokenMerging
from accel.attention.layout import TokenLayout
from accel.attention.methods.sliding_tile import SlidingTile
from accel.attention.methods.sparse_video_gen import SparseVideoGen
from accel.attention.methods.topk_blocks import TopKBlocks
from accel.attention.methods.window_residual import Residual, WindowResidual, WindowResidualPlanner, interval, weights
from accel.attention.planner import AttentionInputs, SparseAttention
from tests.attention.by_the_letter import ask, mask_of, random, under

LAYOUT = TokenLayout(frames=4, height=8, width=8, text=5)


def planner_of(method: WindowResidual) -> WindowResidualPlanner:
    return WindowResidualPlanner(method, method.window.planner(None))  # type: ignore[arg-type]


def answer(planner: WindowResidualPlanner, inputs: AttentionInputs) -> torch.Tensor:
    plans = planner.plan(inputs)
    return inputs.dense() if plans is None else planner.correct(inputs, under(inputs, mask_of(inputs, plans)))


def drifting(step: int, stream: str = "cond") -> AttentionInputs:
    """Values move on a line in the timestep, queries and keys stay: so does what a window leaves out."""
    q, k, start = random(LAYOUT, samples=2)
    change = random(LAYOUT, samples=2, seed=9)[2]
    return ask(q, k, LAYOUT, start + change * step, step=step, stream=stream)


WINDOWS = [
    SlidingTile(density=0.2, tile=(2, 4, 4)),
    TopKBlocks(density=0.3, block=16),
    SparseVideoGen(block=16, tolerance=math.inf),
]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: type(window).__name__)
def test_what_changes_linearly_is_exact_after_the_second_refresh(window: TopKBlocks) -> None:
    planner = planner_of(WindowResidual(window, refresh=4))
    for step in range(10):
        inputs = drifting(step)
        exact, found = inputs.dense(), answer(planner, inputs)
        if step in (0, 2, 4, 8):  # refreshes: the first intervals are half as long
            assert torch.equal(found, exact)
        elif step == 1:
            assert not torch.allclose(found, exact, atol=1e-2)
        else:
            torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-4)


def test_the_published_form_holds_the_last_residual() -> None:
    planner = planner_of(WindowResidual(TopKBlocks(density=0.3, block=16), refresh=3, order=0))
    kept = torch.tensor(0.0)
    for step in range(7):
        inputs = drifting(step)
        plans = planner.plan(inputs)
        window = under(inputs, mask_of(inputs, plans))
        if step % 3 == 0:
            kept = inputs.dense() - window
        torch.testing.assert_close(planner.correct(inputs, window), window + kept, atol=1e-5, rtol=1e-5)
    assert len([tensor for tensor in planner.kept_tensors() if tensor.shape == drifting(0).q.shape]) == 1


def test_a_refresh_in_every_step_is_dense_to_the_bit() -> None:
    planner = planner_of(WindowResidual(refresh=1))
    for step in range(3):
        assert torch.equal(answer(planner, drifting(step)), drifting(step).dense())


def test_a_window_over_everything_is_dense() -> None:
    assert planner_of(WindowResidual(TopKBlocks(density=1.0))).plan(drifting(0)) is None


def test_the_selection_stays_while_residuals_are_compared() -> None:
    planner = planner_of(WindowResidual(TopKBlocks(density=0.25, block=16), refresh=2))
    q, k, v = random(LAYOUT)
    first = planner.plan(ask(q, k, LAYOUT, v))
    assert planner.plan(ask(-q, k, LAYOUT, v, step=5)) is first


def test_streams_shapes_and_runs_share_nothing() -> None:
    planner = planner_of(WindowResidual(refresh=8))
    for inputs in (drifting(0), drifting(1, "uncond")):
        assert torch.equal(answer(planner, inputs), inputs.dense())
    assert not torch.equal(answer(planner, drifting(1)), drifting(1).dense())
    q, k, v = random(LAYOUT, samples=1)
    half = ask(q, k, LAYOUT, v, step=2)
    assert torch.equal(answer(planner, half), half.dense())
    assert torch.equal(answer(planner, drifting(2)), drifting(2).dense())  # the other shape has taken its place
    assert torch.equal(answer(planner, drifting(1)), drifting(1).dense())  # a step back is another run


@pytest.mark.parametrize("form", [SlidingTile, TopKBlocks])
def test_what_is_no_window_is_refused(form: type) -> None:
    with pytest.raises(ValueError, match="not WindowResidual"):
        WindowResidual(WindowResidual())
    with pytest.raises(TypeError, match="must be one of"):
        WindowResidual("band")  # type: ignore[arg-type]
    assert WindowResidual(form()).to_dict()["window"]["method"] == form.__name__


def test_intervals_and_weights() -> None:
    assert [interval(refreshes, 6, 1) for refreshes in range(5)] == [0, 3, 3, 6, 6]
    assert [interval(refreshes, 6, 0) for refreshes in range(3)] == [0, 6, 6]
    assert [interval(refreshes, 1, 1) for refreshes in range(3)] == [0, 1, 1]
    there = torch.zeros(1)
    assert weights([Residual(0, 900.0, there)], 800.0) == [1.0]
    assert weights([Residual(0, 900.0, there), Residual(2, 800.0, there)], 750.0) == [-0.5, 1.5]
    assert weights([Residual(0, 900.0, there), Residual(1, 900.0, there)], 800.0) == [0.0, 1.0]


@pytest.mark.parametrize("other", [TokenMerging(), HiDiffusion(), WindowResidual()], ids=str)
def test_only_methods_that_do_nothing_but_select_keys_can_be_the_window(other: SparseAttention) -> None:
    with pytest.raises(ValueError, match="only selects keys"):
        WindowResidual(other)
    if not isinstance(other, WindowResidual):
        with pytest.raises(ValueError, match="only selects keys"):
            LowPrecision(sparse=other)
