"""xFormers as a kernel: gathered keys under a block-diagonal mask, so that unequal units share a call unpadded."""

from __future__ import annotations

import torch

from accel.attention.dense import dense
from accel.attention.gather import Chunk, Gather
from accel.attention.plan import Plan


class XFormers:
    """Exact against the plan's mask. For GPUs too old for torch's flash kernels (compute capability below 8.0).

    Memory: as `Gather`, and a packed copy of what one call takes.
    """

    name = "xformers"

    def __init__(self, chunk_bytes: int | None = None) -> None:
        self._gather = Gather(chunk_bytes)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, scale: float, text: torch.Tensor
    ) -> torch.Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        if plan.layout.text:
            rows = plan.layout.text_rows
            out[:, :, rows] = dense(q[:, :, rows], k, v, plan.layout, scale, text)
        schedule = self._gather.schedule(q, plan, text)
        whole = out.view(schedule.sequences, -1, out.shape[-1])
        for chunk in self._gather.chunks(q, k, v, schedule, text):
            places = chunk.places.flatten()
            whole[chunk.sequences].index_copy_(1, places[places >= 0], _attention(chunk, scale))
        return out


def _attention(chunk: Chunk, scale: float) -> torch.Tensor:
    """(sequences, queries, D) of all units one after the other; the sequences are the heads of the call."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    queries = chunk.places >= 0
    units, keys = chunk.q.shape[1], chunk.k.shape[2]
    there = queries.new_ones(units, keys) if chunk.mask is None else chunk.mask[0, :, 0]
    bias = BlockDiagonalMask.from_seqlens(queries.sum(1).tolist(), there.sum(1).tolist())
    q, k, v = (
        tensor.flatten(1, 2)[:, kept.flatten()].transpose(0, 1)[None]
        for tensor, kept in ((chunk.q, queries), (chunk.k, there), (chunk.v, there))
    )
    output: torch.Tensor = memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale)
    return output[0].transpose(0, 1)
