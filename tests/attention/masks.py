"""Plans of all forms, and the attention that they stand for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from accel.attention.dense import all_text
from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.planner import AttentionInputs, AttentionSite
from accel.clock import StepContext

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def random_plan(layout: TokenLayout, size: int, form: str, samples: int = 2, heads: int = 3) -> KeyPlan:
    """Blocks of `size` in random order, each with 1 to 4 random blocks of keys.

    form: "identity" keeps the order of the sequence, "shared" shuffles it, "own blocks" lets heads choose their keys,
    "own order" also their order.
    """

    def order() -> torch.Tensor:
        count = -(-layout.video // size)
        tokens = torch.full((count * size,), -1)
        tokens[: layout.video] = torch.arange(layout.video) if form == "identity" else torch.randperm(layout.video)
        return tokens.view(count, size)

    def key_blocks() -> torch.Tensor:
        count = -(-layout.video // size)
        rows = torch.full((count, min(4, count)), -1)
        for row in rows:
            seen = int(torch.randint(1, len(row) + 1, ()))
            row[:seen] = torch.randperm(count)[:seen]
        return rows

    def own(make: Callable[[], torch.Tensor]) -> torch.Tensor:
        return torch.stack([make() for _ in range(samples * heads)]).unflatten(0, (samples, heads))

    return KeyPlan(
        layout,
        own(order) if form == "own order" else order(),
        own(key_blocks) if form.startswith("own") else key_blocks(),
    )


def activations(
    layout: TokenLayout, samples: int = 2, heads: int = 3, width: int = 16, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v as a model has them: (B, L, H, D) in memory."""
    shape = (samples, layout.tokens, heads, width)
    q, k, v = (torch.randn(shape).to(dtype).transpose(1, 2) for _ in range(3))
    return q, k, v


def inputs(
    layout: TokenLayout, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_mask: torch.Tensor | None = None
) -> AttentionInputs:
    site = AttentionSite(
        "transformer", "cond", "blocks.0.attn1", 0, 1, StepContext(run=0, step=0, position=0, total=1, sigma=1.0)
    )
    return AttentionInputs(site, layout, q, k, v, 0.3, key_mask, lambda: torch.full_like(q, torch.nan))


def masked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, text: torch.Tensor | None = None
) -> torch.Tensor:
    """Dense attention of scale 0.3 under a mask, in float32. text: (B, L) True for the keys that are there."""
    if text is not None:
        mask = mask & text[:, None, None]
    return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, scale=0.3)


def error(output: torch.Tensor, right: torch.Tensor) -> float:
    return float((output.float() - right).abs().max())


def first_text(layout: TokenLayout, count: int) -> torch.Tensor:
    return all_text(layout, torch.device("cpu"))[:count]
