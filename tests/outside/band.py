"""An attention pattern: a band along the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.static import StaticAttention
from accel.method import setting


@dataclass(frozen=True)
class Band(StaticAttention):
    """A block of `block` tokens sees the `reach` blocks on either side."""

    reach: int = setting(1, 0, None, "blocks on either side that are seen", dial=True)
    block: int = setting(4, 1, None, "tokens of a block")

    @classmethod
    def for_tuning(cls) -> Sequence[Band]:
        return (cls(warmup=0.0, dense_layers=0, min_tokens=0),)

    def layout_plan(self, layout: TokenLayout) -> KeyPlan:
        count = -(-layout.video // self.block)
        order = torch.full((count * self.block,), -1)
        order[: layout.video] = torch.arange(layout.video)
        place = torch.arange(count)
        near = (place[:, None] - place[None, :]).abs() <= self.reach
        lists = [row.nonzero().flatten() for row in near]
        key_blocks = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=-1)
        return KeyPlan(layout, order.view(count, self.block), key_blocks)
