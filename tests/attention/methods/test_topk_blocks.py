"""Top-k blocks: where the tokens of a block are equal, means are exact and the selection must be the true one."""

from __future__ import annotations

import pytest
import torch

from accel.attention.kernels import attend
from accel.attention.layout import TokenLayout
from accel.attention.methods.topk_blocks import TopKBlocks, TopKPlanner, block_attention, shared
from accel.attention.orders import compact_tiles
from tests.attention.by_the_letter import ask, mask_of, random, same, under

LAYOUT = TokenLayout(frames=4, height=8, width=8)  # 16 tiles of 16 tokens
BLOCK = 16


def constant(heads: int = 2, samples: int = 1, width: int = 8, seed: int = 0) -> list[torch.Tensor]:
    """Queries and keys that are the same for all tokens of a tile; and the tiles (blocks, size)."""
    order = compact_tiles(LAYOUT, BLOCK)
    found = []
    for part in torch.randn(2, samples, heads, len(order), width, generator=torch.Generator().manual_seed(seed)):
        tokens = torch.empty(samples, heads, LAYOUT.tokens, width)
        tokens[:, :, order] = part[:, :, :, None] * 2
        found.append(tokens)
    return [*found, order]


def true_shares(question_q: torch.Tensor, question_k: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    weights = (question_q @ question_k.mT * question_q.shape[-1] ** -0.5).softmax(-1)
    return weights[:, :, order[:, 0]][:, :, :, order].sum(-1)


def test_shares_of_blocks_of_equal_tokens_are_exact() -> None:
    q, k, order = constant(samples=2)
    shares = block_attention(ask(q, k + 5.0, LAYOUT), order)  # what all keys have in common does not matter
    off = ~torch.eye(len(order), dtype=torch.bool)
    torch.testing.assert_close(shares[..., off], true_shares(q, k, order)[..., off])


@pytest.mark.parametrize("similarity", [0.0, 0.9])
def test_the_selected_blocks_are_the_true_best_and_the_own(similarity: float) -> None:
    q, k, order = constant(samples=2)
    planner = TopKPlanner(TopKBlocks(density=0.25, block=BLOCK, adaptive=0, similarity=similarity))
    (part,) = planner.plan(ask(q, k, LAYOUT)) or []
    assert part.heads is None and part.plan is not None
    shares = true_shares(q, k, order)
    shares.diagonal(dim1=-2, dim2=-1).fill_(2)
    assert torch.equal(part.plan.key_blocks.sort(-1).values, shares.topk(4, -1).indices.sort(-1).values)
    assert part.plan.density == 0.25


def test_blocks_that_are_not_alike_go_first() -> None:
    q, k, order = constant()
    k[:, :, order[5]] = k[:, :, order[5]] * torch.tensor([1.0, -1.0]).repeat(8)[:, None]  # its mean is zero
    plans = {}
    for similarity in (0.0, 0.5):
        planner = TopKPlanner(TopKBlocks(density=0.2, block=BLOCK, adaptive=0, similarity=similarity))
        (part,) = planner.plan(ask(q, k, LAYOUT)) or []
        assert part.plan is not None
        plans[similarity] = (part.plan.key_blocks == 5).any(-1)
    assert plans[0.5].all() and not plans[0.0].all()


def test_a_head_that_looks_everywhere_takes_what_the_other_leaves() -> None:
    q, k, _ = constant()
    q[:, 0], q[:, 1] = q[:, 0] * 20, q[:, 1] * 0
    inputs = ask(q, k, LAYOUT)
    plans = TopKPlanner(TopKBlocks(density=0.5, block=BLOCK, min_tokens=0)).plan(inputs)
    mask = mask_of(inputs, plans)
    narrow, wide = mask[0].double().mean((1, 2)).tolist()
    assert narrow < 0.2 and 0.8 < wide < 1
    assert mask.double().mean() == 0.5
    plans = TopKPlanner(TopKBlocks(density=0.5, block=BLOCK)).plan(inputs)  # the wide one is faster whole
    assert mask_of(inputs, plans)[0].double().mean((1, 2)).tolist() == [narrow, 1]
    alike = TopKPlanner(TopKBlocks(density=0.5, block=BLOCK, adaptive=0)).plan(inputs) or []
    assert [(part.heads, part.plan.density) for part in alike if part.plan is not None] == [(None, 0.5)]


def test_density_is_shared_by_what_is_gained() -> None:
    narrow, wide = torch.tensor([0.9, 0.1, 0.0, 0.0]), torch.full((4,), 0.25)
    assert shared(torch.stack([narrow, wide]), 0.5).tolist() == [1, 3]
    assert shared(torch.stack([narrow, wide]), 0.75).tolist() == [2, 4]
    assert shared(torch.stack([wide, wide]), 1.0).tolist() == [4, 4]
    assert shared(torch.stack([narrow, wide]), 0.01).tolist() == [1, 1]
    counts = shared(torch.rand(5, 100, generator=torch.Generator().manual_seed(0)).sort(-1, True).values, 0.3).tolist()
    assert sum(counts) == pytest.approx(150, abs=6) and all(count % 6 == 0 for count in counts)


@pytest.mark.parametrize(
    "layout", [LAYOUT, TokenLayout(5, 3, 7), TokenLayout(3, 5, 6, text=4), TokenLayout(4, 4, 5, 3, True)]
)
@pytest.mark.parametrize("adaptive", [0, 1])
def test_sizes_that_do_not_divide_batches_and_text(layout: TokenLayout, adaptive: int) -> None:
    inputs = ask(*random(layout, samples=2, heads=3)[:2], layout)
    plans = TopKPlanner(TopKBlocks(density=0.5, block=8, adaptive=adaptive)).plan(inputs)
    assert plans is not None
    mask = mask_of(inputs, plans)
    torch.testing.assert_close(attend(inputs, plans), under(inputs, mask), atol=1e-5, rtol=0)
    for _, plan in plans:
        assert plan is None or (plan.key_blocks == torch.arange(len(plan.order))[:, None]).any(-1).all()


def test_everything_is_dense() -> None:
    q, k, _ = random(LAYOUT)
    assert TopKPlanner(TopKBlocks(density=1.0)).plan(ask(q, k, LAYOUT)) is None


@pytest.mark.parametrize(
    ("grid", "tile"), [((9, 16, 16), (3, 4, 4)), ((21, 30, 52), (3, 5, 4)), ((33, 45, 80), (3, 5, 4))]
)
def test_tiles_divide_the_grids_of_real_models(grid: tuple[int, int, int], tile: tuple[int, int, int]) -> None:
    layout = TokenLayout(*grid)
    first = compact_tiles(layout, 64)[0]
    extent = first // layout.frame, first % layout.frame // layout.width, first % layout.width
    assert tuple(int(axis.max()) + 1 for axis in extent) == tile
    assert (compact_tiles(layout, 64) >= 0).all()


def test_selections_are_the_same_in_every_run_and_new_in_every_step_unless_reused() -> None:
    q, k, _ = constant()
    other, _, _ = constant(seed=1)
    method = TopKBlocks(density=0.25, block=BLOCK)
    assert same(TopKPlanner(method), TopKPlanner(method), ask(q, k, LAYOUT))
    fresh, planner = TopKPlanner(method), TopKPlanner(TopKBlocks(density=0.25, block=BLOCK, reuse=2))

    def masks(step: int, queries: torch.Tensor, stream: str = "cond") -> tuple[torch.Tensor, torch.Tensor]:
        inputs = ask(queries, k, LAYOUT, step=step, stream=stream)
        return mask_of(inputs, fresh.plan(inputs)), mask_of(inputs, planner.plan(inputs))

    first, held = masks(4, q)
    assert torch.equal(first, held) and planner.kept_tensors() and not list(fresh._selected)
    now, held = masks(5, other)
    assert torch.equal(held, first) and not torch.equal(now, first)
    assert torch.equal(masks(5, other, "uncond")[1], now)
    assert torch.equal(masks(6, other)[1], now)
    inputs = ask(torch.cat([q, q]), torch.cat([k, k]), LAYOUT, step=6)
    assert mask_of(inputs, planner.plan(inputs)).shape[0] == 2
