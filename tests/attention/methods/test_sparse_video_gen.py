"""Sparse VideoGen: which window suits a head is known beforehand for heads that are made to look that way."""

from __future__ import annotations

import math

import pytest
import torch

from accel.attention.kernels import attend
from accel.attention.layout import TokenLayout
from accel.attention.methods.sparse_video_gen import (
    SparseVideoGen,
    SparseVideoGenPlanner,
    band,
    sampled_rows,
    window_errors,
)
from accel.attention.orders import frame_major, hilbert, token_major
from accel.attention.plan import KeyPlan
from tests.attention.by_the_letter import ask, mask_of, random, same, under

LAYOUT = TokenLayout(frames=8, height=4, width=8)  # 256 tokens
SPATIAL, TEMPORAL, DENSE = 0, 1, 2


def looks_at(group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys (1, 1, L, groups) of a head in which tokens see those of their own group, and nothing else."""
    directions = torch.nn.functional.one_hot(group).float()[None, None]
    return directions * 200, directions


def classes(planner: SparseVideoGenPlanner, heads: int) -> list[int]:
    """For each head the number of the window that it follows."""
    (known,), (windows,) = planner._known, planner._windows.values()
    number = {id(plan): number for number, plan in enumerate(windows)}
    found = {
        head: number.get(id(plan), DENSE)
        for some, plan in known
        for head in (range(heads) if some is None else some.tolist())
    }
    return [found[head] for head in range(heads)]


def test_heads_that_look_within_frames_through_them_and_everywhere() -> None:
    tokens = torch.arange(LAYOUT.tokens)
    frame, pixel = tokens // LAYOUT.frame, tokens % LAYOUT.frame
    far = torch.randn(1, 1, LAYOUT.tokens, 32, generator=torch.Generator().manual_seed(0))
    every = torch.arange(32) < 8
    q, k = (
        torch.cat([looks_at(pixel)[part], looks_at(frame)[part].repeat(1, 1, 1, 4) * every, far], dim=1)
        for part in (0, 1)
    )
    planner = SparseVideoGenPlanner(SparseVideoGen(density=0.3, block=16, rows=32, tolerance=0.2))
    inputs = ask(q, k, LAYOUT)
    plans = planner.plan(inputs)
    assert classes(planner, 3) == [TEMPORAL, SPATIAL, DENSE]
    assert plans is not None
    assert [(heads.tolist(), plan is None) for heads, plan in plans] == [([1], False), ([0], False), ([2], True)]
    torch.testing.assert_close(attend(inputs, plans), inputs.dense(), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "layout", [LAYOUT, TokenLayout(5, 3, 7, text=6), TokenLayout(5, 3, 7, text=6, text_first=True)]
)
def test_errors_on_all_rows_are_those_of_masked_attention(layout: TokenLayout) -> None:
    q, k, v = random(layout, samples=2, heads=3)
    padded = torch.ones(2, layout.tokens, dtype=torch.bool)
    if layout.text:
        padded[1, layout.text_rows.indices(layout.tokens)[1] - 3 : layout.text_rows.indices(layout.tokens)[1]] = False
    inputs = ask(q, k, layout, v, key_mask=padded)
    windows = SparseVideoGen(density=0.5, block=8).windows(layout)
    found = window_errors(inputs, windows, torch.arange(layout.video))
    dense = inputs.dense()[:, :, layout.video_rows]
    for errors, plan in zip(found, windows, strict=True):
        output = under(inputs, plan.mask()[None, None])[:, :, layout.video_rows]
        expected = (output - dense).square().sum((0, 2, 3)).sqrt() / dense.square().sum((0, 2, 3)).sqrt()
        torch.testing.assert_close(errors, expected)
    planner = SparseVideoGenPlanner(SparseVideoGen(density=0.5, block=8, rows=10_000, tolerance=math.inf))
    planner.plan(inputs)
    assert classes(planner, 3) == found.argmin(0).tolist()


@pytest.mark.parametrize("layout", [LAYOUT, TokenLayout(5, 3, 7), TokenLayout(5, 5, 7, text=9)])
@pytest.mark.parametrize("density", [0.2, 0.3, 0.5, 0.9])
def test_the_density_is_reached_from_below_within_a_block(layout: TokenLayout, density: float) -> None:
    for plan in SparseVideoGen(density=density, block=8).windows(layout):
        blocks = len(plan.order)
        narrowest = KeyPlan(layout, plan.order, torch.arange(blocks)[:, None]).density
        assert plan.density <= max(density, narrowest)
        assert plan.density > density - 1.5 * plan.size / layout.video


def test_a_window_over_everything_is_dense() -> None:
    q, k, _ = random(LAYOUT)
    assert SparseVideoGenPlanner(SparseVideoGen(density=1.0)).plan(ask(q, k, LAYOUT)) is None
    assert SparseVideoGenPlanner(SparseVideoGen(tolerance=0.0)).plan(ask(q, k, LAYOUT)) is None


@pytest.mark.parametrize("layout", [TokenLayout(5, 3, 7), TokenLayout(3, 5, 6, text=4), TokenLayout(4, 4, 4, 3, True)])
def test_sizes_that_do_not_divide_batches_and_text(layout: TokenLayout) -> None:
    inputs = ask(*random(layout, samples=2, heads=4)[:2], layout)
    plans = SparseVideoGenPlanner(SparseVideoGen(block=8, tolerance=math.inf)).plan(inputs)
    assert plans is not None
    torch.testing.assert_close(attend(inputs, plans), under(inputs, mask_of(inputs, plans)), atol=1e-5, rtol=0)


def test_spatial_heads_may_see_the_first_frame() -> None:
    spatial, _ = SparseVideoGen(density=0.4, block=16, sink=1).windows(LAYOUT)
    assert spatial.mask()[:, : LAYOUT.frame].all()
    plain, _ = SparseVideoGen(density=0.4, block=16).windows(LAYOUT)
    assert not plain.mask()[:, : LAYOUT.frame].all()
    assert spatial.density == plain.density


def test_a_band_holds_the_nearest_blocks() -> None:
    assert band(6, 3).tolist() == [[0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [3, 4, 5]]
    assert band(5, 3, sink=1).tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 3, 4]]
    assert band(2, 9).tolist() == [[0, 1], [0, 1]]


def test_orders_hold_every_token_once_and_near_pixels_together() -> None:
    order = token_major(TokenLayout(3, 8, 8), 12)
    assert order.flatten().sort().values[-192:].tolist() == list(range(192))
    row, column = order.flatten()[::3] % 64 // 8, order.flatten()[::3] % 8
    assert (row.diff().abs() + column.diff().abs()).eq(1).all()
    assert sorted(hilbert(5, 7).tolist()) == list(range(35))
    assert frame_major(TokenLayout(1, 1, 5), 2).tolist() == [[0, 1], [2, 3], [4, -1]]


def test_rows_are_spread_differ_by_step_and_are_the_same_in_every_run() -> None:
    inputs = ask(*random(LAYOUT)[:2], LAYOUT)
    site, video = inputs.site, LAYOUT.video
    rows = sampled_rows(site, 0, video, 16)
    assert (rows // 16).tolist() == list(range(16))
    assert torch.equal(rows, sampled_rows(site, 0, video, 16))
    assert not torch.equal(rows, sampled_rows(site, 1, video, 16))
    first, second = (SparseVideoGenPlanner(SparseVideoGen(block=16, tolerance=math.inf)) for _ in range(2))
    assert same(first, second, inputs)


def test_a_choice_holds_for_its_steps_its_stream_and_its_shape() -> None:
    tokens = torch.arange(LAYOUT.tokens)
    spatial, temporal = looks_at(tokens // LAYOUT.frame), looks_at(tokens % LAYOUT.frame)
    # The same shape for both, so that only the content tells them apart.
    spatial = (torch.nn.functional.pad(spatial[0], (0, 24)), torch.nn.functional.pad(spatial[1], (0, 24)))
    planner = SparseVideoGenPlanner(SparseVideoGen(block=16, reuse=3))
    wide, high = (mask_of(ask(*temporal, LAYOUT), [(None, plan)]) for plan in planner.windows(LAYOUT, tokens.device))

    def seen(parts: tuple[torch.Tensor, torch.Tensor], step: int, stream: str = "cond") -> torch.Tensor:
        inputs = ask(*parts, LAYOUT, step=step, stream=stream)
        return mask_of(inputs, planner.plan(inputs))

    assert torch.equal(seen(spatial, 4), wide)
    assert torch.equal(seen(temporal, 6), wide)  # still the choice of step 4
    assert torch.equal(seen(temporal, 6, "uncond"), high)
    assert torch.equal(seen(temporal, 7), high)
    assert torch.equal(seen(tuple(part.double() for part in spatial), 8), wide)  # type: ignore[arg-type]
    assert torch.equal(seen(spatial, 2), wide)  # a step back is another run


def test_samples_of_a_batch_share_the_choice_by_their_summed_errors() -> None:
    tokens = torch.arange(LAYOUT.tokens)
    strong = looks_at(tokens % LAYOUT.frame)
    weak = torch.zeros_like(strong[0]), strong[1]  # sees all alike: both windows are equally wrong
    q, k = (torch.cat([a, b]) for a, b in zip(strong, weak, strict=True))
    v = torch.randn(2, 1, LAYOUT.tokens, 8, generator=torch.Generator().manual_seed(2))
    planner = SparseVideoGenPlanner(SparseVideoGen(block=16, tolerance=math.inf, rows=64))
    plans = planner.plan(ask(q, k, LAYOUT, v))
    assert plans is not None and len(plans) == 1
    assert classes(planner, 1) == [TEMPORAL]
