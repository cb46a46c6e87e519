"""A plan is its mask: checked against a mask written with loops."""

from __future__ import annotations

import torch

from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan


def plain_mask(plan: KeyPlan) -> torch.Tensor:
    layout, tokens = plan.layout, plan.layout.tokens
    start = layout.text if layout.text_first else 0
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    mask[layout.text_rows] = True
    mask[:, layout.text_rows] = True
    for block, keys in enumerate(plan.key_blocks.tolist()):
        for query in plan.order[block].tolist():
            for other in keys:
                for key in plan.order[other].tolist() if other >= 0 else []:
                    if query >= 0 and key >= 0:
                        mask[start + query, start + key] = True
    return mask


def test_the_mask_and_density_of_blocks_with_padding_and_text() -> None:
    layout = TokenLayout(1, 1, 7, text=2, text_first=True)
    order = torch.tensor([[6, 0, 1], [2, 3, -1], [4, 5, -1]])
    plan = KeyPlan(layout, order, torch.tensor([[0, 2], [1, -1], [2, 0]]))
    assert torch.equal(plan.mask(), plain_mask(plan))
    assert plan.density == plan.mask().double().mean()


def test_samples_and_heads_may_differ_in_what_they_see() -> None:
    layout = TokenLayout(1, 2, 2)
    order = torch.tensor([[0, 1], [2, 3]])
    own, other = torch.tensor([[0], [1]]), torch.tensor([[1], [0]])
    plan = KeyPlan(layout, order, torch.stack([own, other])[None])
    for head, blocks in enumerate((own, other)):
        assert torch.equal(plan.mask()[0, head], plain_mask(KeyPlan(layout, order, blocks)))
    assert plan.density == 0.5


def test_samples_and_heads_may_differ_in_their_order() -> None:
    layout = TokenLayout(1, 2, 2)
    orders, blocks = torch.tensor([[[0, 1], [2, 3]], [[0, 2], [1, 3]]]), torch.tensor([[0], [1]])
    plan = KeyPlan(layout, orders[None], blocks)
    for head in range(2):
        assert torch.equal(plan.mask()[0, head], plain_mask(KeyPlan(layout, orders[head], blocks)))
    assert plan.density == 0.5
