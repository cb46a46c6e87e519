"""Which keys each query sees, for the video tokens of one self-attention, in blocks.

Every sparse method of this package ends as such a plan and every kernel starts from one, so a method is tested by its
mask alone, and a kernel by any plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from accel.attention.layout import TokenLayout


@dataclass(frozen=True)
class KeyPlan:
    """Queries in blocks, and for each block of queries the blocks of keys that all of its queries see.

    order: (blocks, size), or (B, H, blocks, size) where samples and heads differ: the number of the video token at each
    place, every token exactly once; -1 where a block has fewer than `size`. Padding stands at the end of a block.
    key_blocks: (blocks, k), or (B, H, blocks, k): the blocks of keys that each block of queries sees, each at most once
    and at least one; -1 where there are fewer than k, at the end. int64 both, on the device of the queries.

    Text is not in the plan: its keys are seen by all queries, and its queries see all keys.

    share: of the pairs of video tokens, how many are computed, for plans that are made in every step and leave no place
    of `key_blocks` empty: to count them is a host sync. None counts them.
    """

    layout: TokenLayout
    order: torch.Tensor
    key_blocks: torch.Tensor
    share: float | None = None

    @property
    def size(self) -> int:
        """Tokens of a block."""
        return self.order.shape[-1]

    @cached_property
    def density(self) -> float:
        """Share of all pairs of query and key that is computed, text included."""
        layout = self.layout
        pairs = self._pairs() if self.share is None else self.share * layout.video**2
        return (pairs + layout.text * (layout.video + layout.tokens)) / layout.tokens**2

    def _pairs(self) -> float:
        """The pairs of video tokens that are computed, in the mean over samples and heads; a host sync."""
        filled = (self.order >= 0).sum(-1).double()  # (..., blocks)
        known = self.key_blocks >= 0
        filled = filled.expand(*torch.broadcast_shapes(filled.shape[:-1], known.shape[:-2]), filled.shape[-1])
        known = known.expand(*filled.shape[:-1], *known.shape[-2:])
        blocks = self.key_blocks.clamp_min(0).expand(known.shape)
        seen = (filled[..., None, :].expand(*blocks.shape[:-1], -1).gather(-1, blocks) * known).sum(-1)
        return float((filled * seen).sum(-1).mean())

    def mask(self) -> torch.Tensor:
        """The same as a mask over the whole sequence, (L, L) or (B, H, L, L), True where a query sees a key.

        Quadratic in memory: for tests and pictures.
        """
        order, blocks = self.order, self.key_blocks
        lead = torch.broadcast_shapes(order.shape[:-2], blocks.shape[:-2])
        order, blocks = order.expand(*lead, *order.shape[-2:]), blocks.expand(*lead, *blocks.shape[-2:])
        count = order.shape[-2]
        sees = torch.zeros(*lead, count, count + 1, dtype=torch.bool, device=order.device)
        sees.scatter_(-1, torch.where(blocks >= 0, blocks, count), True)
        block_of = torch.zeros(*lead, self.layout.video + 1, dtype=torch.long, device=order.device)
        places = torch.where(order >= 0, order, self.layout.video).flatten(-2)
        numbers = torch.arange(count, device=order.device).repeat_interleave(self.size).expand(places.shape)
        block_of = block_of.scatter_(-1, places, numbers)[..., :-1]
        rows = sees[..., :-1].gather(-2, block_of[..., None].expand(*block_of.shape, count))
        video = rows.gather(-1, block_of[..., None, :].expand(*block_of.shape, block_of.shape[-1]))
        whole = torch.ones(*lead, self.layout.tokens, self.layout.tokens, dtype=torch.bool, device=order.device)
        whole[..., self.layout.video_rows, self.layout.video_rows] = video
        return whole
