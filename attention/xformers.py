"""xFormers as a kernel: gathered keys under a block-diagonal mask, so that unequal units share a call unpadded."""

from __future__ import annotations

import torch

from accel.attention.gather import Chunk, Gather


class XFormers(Gather):
    """Exact against the plan's mask. For GPUs too old for torch's flash kernels (compute capability below 8.0), with
    xFormers from version 0.0.27 on.

    Memory: as `Gather`, and a packed copy of what one call takes.
    """

    name = "xformers"

    def attend_chunk(self, chunk: Chunk, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        places = chunk.places.flatten()
        return places[places >= 0], _attention(chunk, scale)


def _attention(chunk: Chunk, scale: float) -> torch.Tensor:
    """(sequences, queries, D) of all units one after the other; the sequences are the heads of the call."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    queries = chunk.places >= 0
    units, keys = chunk.q.shape[1], chunk.k.shape[2]
    there = queries.new_ones(units, keys) if chunk.mask is None else chunk.mask[0, :, 0]
    lengths = queries.sum(1).tolist(), there.sum(1).tolist()
    bias = BlockDiagonalMask.from_seqlens(*lengths, device=chunk.q.device)  # else on the first GPU, wherever q is
    q, k, v = (
        tensor.flatten(1, 2)[:, kept.flatten()].transpose(0, 1)[None]
        for tensor, kept in ((chunk.q, queries), (chunk.k, there), (chunk.v, there))
    )
    output: torch.Tensor = memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale)
    return output[0].transpose(0, 1)
