"""The portable kernel: gathers the keys that each unit of queries sees and calls ordinary attention on them.

Without a mask the library's fastest dense kernel runs, so this is faster than dense attention on every device, by
nearly 1/density where blocks are large; with a boolean mask the same call would cost as much as dense attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.nn import functional as F

from accel.attention.dense import dense
from accel.attention.packing import PackedPlan, QueryGroup, pack_plan
from accel.attention.plan import KeyPlan

# Gathered keys and values of one attention call. On a CPU they should stay in the cache between the gather and its use:
# 1 to 4 MiB measured alike, 16 MiB cost up to 7 % more. A GPU needs enough units in one call to be busy.
CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 1 << 30}
# Queries of all samples and heads together from which one unit is a call of its own: they must fill the device.
ALONE = {"cpu": 128, "cuda": 1 << 14}


Dense = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


class Chunk(NamedTuple):
    """One call of dense attention: q, k, v (sequences, units, n, D), and where its output belongs."""

    sequences: slice
    places: torch.Tensor  # (units, n) of the queries in the sequence, -1 where there is none
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None  # only where units of unequal size share a call


class Gather:
    """Exact against the plan's mask; any plan, any device, any data type.

    Memory: `chunk_bytes` of gathered keys and values (at least those of one unit of one head), and contiguous copies of
    queries, keys and values where they are not.
    attention: what computes the chunks that need no mask, from (..., n, D) and the scale; None is torch's own.
    """

    name = "gather"

    def __init__(self, chunk_bytes: int | None = None, attention: Dense | None = None) -> None:
        self.chunk_bytes, self.attention = chunk_bytes, attention

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float, text: torch.Tensor
    ) -> torch.Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        if plan.layout.text:
            rows = plan.layout.text_rows
            out[:, :, rows] = dense(q[:, :, rows], k, v, plan.layout, scale, text)
        schedule = self.schedule(q, plan, text)
        whole = out.view(schedule.sequences, -1, out.shape[-1])
        for chunk in self.chunks(q, k, v, schedule, text):
            whole[chunk.sequences].index_copy_(1, *self.attend_chunk(chunk, scale))
        return out

    def attend_chunk(self, chunk: Chunk, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The places of a chunk's queries and their outputs, (sequences, queries, D), without padding."""
        if self.attention is not None and chunk.mask is None:
            output = self.attention(chunk.q, chunk.k, chunk.v, scale)
        else:
            output = F.scaled_dot_product_attention(chunk.q, chunk.k, chunk.v, attn_mask=chunk.mask, scale=scale)
        places, output = chunk.places.flatten(), output.flatten(1, 2)
        return (places, output) if chunk.mask is None else (places[places >= 0], output[:, places >= 0])

    def schedule(self, q: torch.Tensor, plan: KeyPlan, text: torch.Tensor) -> PackedPlan:
        """What there is to do; it is kept as long as the plan lives."""
        return pack_plan(plan, q.shape[0], q.shape[1], text, ALONE.get(q.device.type, ALONE["cuda"]))

    def chunks(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, schedule: PackedPlan, text: torch.Tensor
    ) -> Iterator[Chunk]:
        """The calls of dense attention that make up the video rows."""
        tokens, budget = q.shape[2], self.chunk_bytes or CHUNK_BYTES.get(q.device.type, CHUNK_BYTES["cuda"])
        q, k, v = (tensor.reshape(schedule.sequences, -1, tensor.shape[-1]).contiguous() for tensor in (q, k, v))
        for stretch in schedule.stretches:
            places = schedule.tokens(stretch.queries, stretch.query_tokens, even=True)
            near, values = k[:, None, stretch.keys], v[:, None, stretch.keys]
            yield Chunk(slice(None), places, _picked(q, places), near, values, None)
        for group in schedule.groups:
            yield from _gathered(q, k, v, schedule, group, text, tokens, budget)


def _gathered(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
    schedule: PackedPlan, group: QueryGroup, text: torch.Tensor, tokens: int, budget: int,
) -> Iterator[Chunk]:  # fmt: skip
    """A group in chunks of units, and of sequences where the keys of one unit are too many for all."""
    unit = (group.key_tokens + len(text)) * (k.shape[-1] + v.shape[-1]) * k.element_size()
    sequences = min(max(budget // unit, 1), len(q))
    units = min(max(budget // (unit * sequences), 1), len(group.keys))
    # The same memory for all chunks: fresh pages for each of them cost as much as the gather.
    size = sequences * units * (group.key_tokens + len(text))
    near, values = (tensor.new_empty(size * tensor.shape[-1]) for tensor in (k, v))
    for queries, keys in zip(group.queries.split(units), group.keys.split(units), strict=True):
        here = schedule.tokens(queries, group.query_tokens, group.even)
        there = schedule.tokens(keys, group.key_tokens, group.even)
        if len(text):
            # Where the sequences of all heads are laid end to end, each unit needs the text of its own.
            there = torch.cat([there, text + there[:, :1] // tokens * tokens], dim=1)
        mask = None if group.even else (there >= 0)[None, :, None]
        for start in range(0, len(q), sequences):
            part = slice(start, start + sequences)
            yield Chunk(
                part, here, _picked(q[part], here), _picked(k[part], there, near), _picked(v[part], there, values), mask
            )


def _picked(tensor: torch.Tensor, places: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
    """(sequences, units, n, D) of (sequences, tokens, D); any token where the place is -1."""
    shape, index = (len(tensor), places.numel(), tensor.shape[-1]), places.flatten().clamp_min(0)
    if memory is None:
        picked = tensor.index_select(1, index)
    else:
        picked = torch.index_select(tensor, 1, index, out=memory[: math.prod(shape)].view(shape))
    return picked.view(len(tensor), *places.shape, tensor.shape[-1])
