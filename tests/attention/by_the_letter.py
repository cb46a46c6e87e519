"""Questions made of plain tensors, and what answers them by the letter: dense attention under the plan's mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional as F

from accel.attention.layout import TokenLayout
from accel.attention.planner import AttentionInputs, AttentionSite, HeadPlan, Planner
from accel.clock import StepContext

TOTAL = 20


def ask(
    q: torch.Tensor,
    k: torch.Tensor,
    layout: TokenLayout,
    v: torch.Tensor | None = None,
    step: int = 0,
    stream: str = "cond",
    key_mask: torch.Tensor | None = None,
) -> AttentionInputs:
    """The question of one self-attention at a step of a run whose timesteps fall from 1000 by 50."""
    v = torch.randn(k.shape, generator=torch.Generator().manual_seed(1)) if v is None else v
    context = StepContext(1, step, step, TOTAL, 1 - step / TOTAL, 1000 - 50.0 * step)
    site = AttentionSite("transformer", stream, "blocks.3.attn1", 3, 8, context)
    mask = None if key_mask is None else key_mask[:, None, None]
    scale = q.shape[-1] ** -0.5
    return AttentionInputs(
        site, layout, q, k, v, scale, key_mask, lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    )


def random(layout: TokenLayout, samples: int = 1, heads: int = 2, width: int = 16, seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys and values (B, H, L, D)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, heads, layout.tokens, width, generator=generator) for _ in range(3)]


def at(inputs: AttentionInputs, step: int) -> AttentionInputs:
    """The same at another step."""
    context = replace(inputs.site.context, step=step, position=step, timestep=1000 - 50.0 * step)
    return replace(inputs, site=replace(inputs.site, context=context))


def mask_of(inputs: AttentionInputs, plans: Sequence[HeadPlan] | None) -> torch.Tensor:
    """(B, H, L, L) what each query sees. Every head must be covered exactly once, and every row sees something."""
    samples, heads, tokens, _ = inputs.q.shape
    whole = torch.ones(samples, heads, tokens, tokens, dtype=torch.bool)
    covered = torch.zeros(heads)
    for some, plan in plans or [HeadPlan(None, None)]:
        which = torch.arange(heads) if some is None else some
        covered[which] += 1
        if plan is not None:
            for blocks in plan.key_blocks.flatten(0, -2):
                there = blocks[blocks >= 0]
                assert 0 < len(there) == len(there.unique())
            assert plan.order[plan.order >= 0].sort().values.equal(torch.arange(inputs.layout.video))
            mask = plan.mask()
            whole[:, which] = mask if mask.dim() == 4 else mask.expand(samples, len(which), -1, -1)
    assert covered.eq(1).all()
    return whole


def under(inputs: AttentionInputs, mask: torch.Tensor) -> torch.Tensor:
    """Attention under this mask, and without padded text."""
    if inputs.key_mask is not None:
        mask = mask & inputs.key_mask[:, None, None]
    return F.scaled_dot_product_attention(inputs.q, inputs.k, inputs.v, attn_mask=mask, scale=inputs.scale)


def same(planner: Planner, other: Planner, inputs: AttentionInputs) -> bool:
    """Whether two planners answer alike, to the bit."""
    return torch.equal(mask_of(inputs, planner.plan(inputs)), mask_of(inputs, other.plan(inputs)))
