"""FlexAttention as a kernel: torch compiles one that skips whole blocks, by lists made straight from the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional as F

from accel.attention.dense import dense, places_of
from accel.attention.plan import KeyPlan

MASK_BLOCK = 128  # what the compiled kernels are tuned for


@dataclass(frozen=True)
class FlexInputs:
    """A plan for FlexAttention: which tokens stand where, and which blocks of 128 of them see each other.

    queries, keys: (n,) or (B, h, n) the places in the sequence of the tokens at each place of the packed one, padded to
    full mask blocks with any token. Behind the keys of the video stand those of the text.
    mask: a BlockMask; its padded keys are seen by none.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mask: Any


class Flex:
    """Exact against the plan's mask. Compiles on the first call with a new shape: seconds on a GPU, minutes on a CPU.

    Blocks of the plan that are multiples of 128 tokens fall on whole mask blocks, which is fastest; where they do not,
    the mask is evaluated inside the mask blocks that they share. Memory: packed copies of queries, keys, values and
    output, and (B, h, L/128, L/128) counts while a plan is packed.
    """

    name = "flex"

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float, text: torch.Tensor
    ) -> torch.Tensor:
        samples, heads, _, _ = q.shape
        plan_packed = flex_inputs(plan, samples, heads, text)
        near, values = _take(k, plan_packed.keys), _take(v, plan_packed.keys)
        output = _compiled()(_take(q, plan_packed.queries), near, values, block_mask=plan_packed.mask, scale=scale)
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        if plan.layout.text:
            rows = plan.layout.text_rows
            out[:, :, rows] = dense(q[:, :, rows], k, v, plan.layout, scale, text)
        places = plan_packed.queries[..., : plan.layout.video]
        output = output[:, :, : plan.layout.video]
        if places.dim() == 1:
            return out.index_copy_(2, places, output)
        return out.scatter_(2, places[..., None].expand(output.shape), output)


_packed: WeakKeyDictionary[KeyPlan, dict[tuple[object, ...], FlexInputs]] = WeakKeyDictionary()


def flex_inputs(plan: KeyPlan, samples: int, heads: int, text: torch.Tensor) -> FlexInputs:
    """The plan for FlexAttention; kept as long as the plan lives."""
    known = _packed.setdefault(plan, {})
    key = (samples, heads, places_of(text))
    if key not in known:
        known[key] = _pack(plan, samples, heads, text)
    return known[key]


def _pack(plan: KeyPlan, samples: int, heads: int, text: torch.Tensor) -> FlexInputs:
    tokens, blocks = _sequence(plan.order, plan.layout.video)
    tokens = tokens + plan.layout.video_rows.start
    count = plan.order.shape[-2]
    key_tokens = torch.cat([tokens, text.expand(*tokens.shape[:-1], -1)], dim=-1)
    key_blocks = F.pad(blocks, (0, len(text)), value=count)  # the block of the text, and of the padding behind it
    queries, query_ids = _filled(tokens), _filled(blocks)
    keys, key_ids = _filled(key_tokens), F.pad(key_blocks, (0, -key_blocks.shape[-1] % MASK_BLOCK), value=count + 1)
    sees = _sees(plan.key_blocks, count)
    if not (query_ids.dim() == 1 and sees.dim() == 2):
        query_ids, key_ids = (ids.expand(samples, heads, -1).contiguous() for ids in (query_ids, key_ids))
        sees = sees.expand(samples, heads, -1, -1).contiguous()
    return FlexInputs(queries, keys, _block_mask(sees, query_ids, key_ids))


def _sequence(order: torch.Tensor, video: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., video) the tokens block by block, and the number of the block of each. Full blocks stand first, so that as
    many as can be start at a mask block.
    """
    by_fill = (order >= 0).sum(-1).argsort(dim=-1, descending=True, stable=True)
    tokens = order.gather(-2, by_fill[..., None].expand(order.shape)).flatten(-2)
    numbers = by_fill[..., None].expand(order.shape).flatten(-2)
    # Sorted and not picked by a mask, whose result has a size that a GPU would have to tell.
    first = (tokens < 0).to(torch.uint8).argsort(dim=-1, stable=True)[..., :video]
    return tokens.gather(-1, first), numbers.gather(-1, first)


def _filled(tokens: torch.Tensor) -> torch.Tensor:
    """Padded to whole mask blocks with the last entry."""
    missing = -tokens.shape[-1] % MASK_BLOCK
    return torch.cat([tokens, tokens[..., -1:].expand(*tokens.shape[:-1], missing)], dim=-1)


def _sees(key_blocks: torch.Tensor, count: int) -> torch.Tensor:
    """(..., blocks, blocks + 2) which plan blocks each one sees, then the text, which all see, then padding: none."""
    sees = torch.zeros(*key_blocks.shape[:-1], count + 3, dtype=torch.bool, device=key_blocks.device)
    sees.scatter_(-1, torch.where(key_blocks >= 0, key_blocks, count + 2), True)
    sees[..., count], sees[..., count + 1] = True, False
    return sees[..., : count + 2].contiguous()


def _block_mask(sees: torch.Tensor, query_ids: torch.Tensor, key_ids: torch.Tensor) -> Any:
    """Mask blocks of which all pairs are seen are full: their kernel does not look at single pairs."""
    from torch.nn.attention.flex_attention import BlockMask

    pairs = _members(query_ids, sees.shape[-2]) @ sees.float() @ _members(key_ids, sees.shape[-1]).mT
    pairs = pairs if pairs.dim() == 4 else pairs[None, None]
    full = pairs == MASK_BLOCK**2
    partial = (pairs > 0) & ~full
    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(full), BLOCK_SIZE=MASK_BLOCK, mask_mod=_rule(sees, query_ids, key_ids),
        seq_lengths=(query_ids.shape[-1], key_ids.shape[-1]),
    )  # fmt: skip


def _members(ids: torch.Tensor, count: int) -> torch.Tensor:
    """(..., mask blocks, count) how many tokens of each plan block every mask block has."""
    blocks = ids.unflatten(-1, (-1, MASK_BLOCK))
    members = torch.zeros(*blocks.shape[:-1], count, device=ids.device)
    return members.scatter_add_(-1, blocks, torch.ones_like(blocks, dtype=members.dtype))


def _listed(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many mask blocks of keys each row has, and which: they stand first."""
    counts = chosen.sum(-1, dtype=torch.int32)
    return counts, chosen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)


def _rule(sees: torch.Tensor, query_ids: torch.Tensor, key_ids: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The mask for single pairs, asked inside of partial mask blocks."""

    def shared(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        return sees[query_ids[q], key_ids[kv]]

    def own(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        return sees[b, h, query_ids[b, h, q], key_ids[b, h, kv]]

    return shared if sees.dim() == 2 else own


def _take(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, h, n, D) the tokens at these places of (B, h, L, D)."""
    if places.dim() == 1:
        return tensor.index_select(2, places)
    return tensor.gather(2, places[..., None].expand(*tensor.shape[:2], -1, tensor.shape[-1]))


@cache
def _compiled() -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., torch.Tensor] = torch.compile(flex_attention, dynamic=False)
    return compiled
