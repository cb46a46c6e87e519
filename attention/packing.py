"""A plan as the work of the gathering kernel: units of queries that see the same keys, in groups of equal size."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from accel.attention.dense import places_of
from accel.attention.plan import KeyPlan

EXACT_GROUPS = 24  # up to so many pairs of counts each is a group of its own; beyond, similar ones share padded groups
FINENESS = 8  # then counts fall into this many classes for each doubling, so that at most 1 in 11 keys is padding


@dataclass(frozen=True)
class QueryGroup:
    """Units with as many query tokens and as many key tokens, or nearly.

    queries: (units, a), keys: (units, b): rows of the schedule's table; -1 where a unit has fewer blocks.
    query_tokens, key_tokens: how many the largest unit has.
    even: all units have exactly these counts, so that no padding is left once gathered.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    query_tokens: int
    key_tokens: int
    even: bool


@dataclass(frozen=True)
class Stretch:
    """A unit whose keys stand side by side in the sequence: they are sliced and not gathered."""

    queries: torch.Tensor  # (1, a) rows of the table
    query_tokens: int
    keys: slice  # of the sequence


@dataclass(frozen=True)
class PackedPlan:
    """table: (rows + 1, size) the tokens of each block by their place in the sequence, -1 where there is none.

    The last row is empty, so that a block number of -1 finds no tokens. Where samples and heads have their own plans,
    the sequence is that of all of them one after the other and rows are numbered through.
    """

    sequences: int  # as many run side by side: all samples and heads that share the plan, else 1
    table: torch.Tensor
    groups: tuple[QueryGroup, ...]
    stretches: tuple[Stretch, ...]

    def tokens(self, blocks: torch.Tensor, count: int, even: bool) -> torch.Tensor:
        """The places (units, count) of the tokens of these blocks; -1 only where the counts are not even."""
        tokens = self.table[blocks].flatten(1)
        if tokens.shape[1] == count:
            return tokens
        if even:
            return tokens[tokens >= 0].view(len(blocks), count)
        ends = (tokens < 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
        return tokens.gather(1, ends)


_schedules: WeakKeyDictionary[KeyPlan, dict[tuple[object, ...], PackedPlan]] = WeakKeyDictionary()


def pack_plan(plan: KeyPlan, samples: int, heads: int, text: torch.Tensor, alone: int) -> PackedPlan:
    """The schedule of a plan for tensors of so many samples and heads; static plans are worked out once.

    text: the places of the text keys that all queries see. alone: from how many queries, counted over all samples and
    heads, a unit is worth an attention call of its own.
    """
    known = _schedules.setdefault(plan, {})
    places = places_of(text)
    span = (places[0], places[-1], len(places)) if places else None
    key = (samples, heads, span, alone)
    if key not in known:
        shared = plan.order.dim() == 2 and plan.key_blocks.dim() == 2
        known[key] = _share(plan, text, samples * heads, alone) if shared else _own(plan, samples, heads)
    return known[key]


def _share(plan: KeyPlan, text: torch.Tensor, sequences: int, alone: int) -> PackedPlan:
    """One schedule for all samples and heads: worth looking for equal key lists and for keys side by side."""
    table = _table(plan.order + torch.where(plan.order >= 0, plan.layout.video_rows.start, 0))
    keys, unit = torch.unique(plan.key_blocks.sort(-1, descending=True).values, dim=0, return_inverse=True)
    queries = _members(unit, len(keys))
    filled = (table >= 0).sum(-1)
    low = torch.where(table >= 0, table, plan.layout.tokens).amin(-1)[keys].amin(-1)
    high = table.amax(-1)[keys].amax(-1)
    if len(text):
        low, high = low.clamp_max(text.amin()), high.clamp_min(text.amax())
    query_tokens, key_tokens = filled[queries].sum(-1), filled[keys].sum(-1) + len(text)
    stretched = (high - low + 1 == key_tokens) & (query_tokens * sequences >= alone)
    stretches = tuple(
        Stretch(queries[None, row], tokens, slice(first, first + count))
        for row, tokens, first, count in zip(
            stretched.nonzero().flatten().tolist(),
            query_tokens[stretched].tolist(),
            low[stretched].tolist(),
            key_tokens[stretched].tolist(),
            strict=True,
        )
    )
    rest = ~stretched
    groups = _groups(queries[rest], keys[rest], query_tokens[rest], key_tokens[rest] - len(text))
    return PackedPlan(sequences, table, groups, stretches)


def _own(plan: KeyPlan, samples: int, heads: int) -> PackedPlan:
    """Samples and heads have their own plans: every block of queries is a unit."""
    layout, blocks = plan.layout, plan.order.shape[-2]
    sequences, device = samples * heads, plan.order.device
    start = torch.arange(sequences, device=device)[:, None, None]
    order = plan.order.expand(samples, heads, -1, -1).reshape(sequences, blocks, -1)
    moved = order + start * layout.tokens + layout.video_rows.start
    table = _table(torch.where(order >= 0, moved, -1).flatten(0, 1))
    keys = plan.key_blocks.expand(samples, heads, -1, -1).reshape(sequences, blocks, -1)
    keys = torch.where(keys >= 0, keys + start * blocks, -1).flatten(0, 1)
    queries = torch.arange(len(keys), device=device)[:, None]
    if plan.share is not None and blocks * plan.size == layout.video:
        # All blocks are full and all places of the lists are taken: nothing is to be counted, which a GPU would tell.
        return PackedPlan(1, table, (QueryGroup(queries, keys, plan.size, keys.shape[1] * plan.size, True),), ())
    filled = (table >= 0).sum(-1)
    return PackedPlan(1, table, _groups(queries, keys, filled[queries].sum(-1), filled[keys].sum(-1)), ())


def _table(order: torch.Tensor) -> torch.Tensor:
    return torch.cat([order, order.new_full((1, order.shape[1]), -1)])


def _members(unit: torch.Tensor, units: int) -> torch.Tensor:
    """(units, a) the blocks of each unit, -1 behind the last."""
    counts = unit.bincount(minlength=units)
    by_unit = unit.argsort(stable=True)
    places = torch.arange(len(unit), device=unit.device) - (counts.cumsum(0) - counts)[unit[by_unit]]
    members = unit.new_full((units, int(counts.amax())), -1)
    members[unit[by_unit], places] = by_unit
    return members


def _groups(
    queries: torch.Tensor, keys: torch.Tensor, query_tokens: torch.Tensor, key_tokens: torch.Tensor
) -> tuple[QueryGroup, ...]:
    """Units sorted into groups by their counts of tokens."""
    if not len(queries):
        return ()
    pairs = torch.stack([query_tokens, key_tokens], dim=1).cpu()
    kinds, kind = pairs.unique(dim=0, return_inverse=True)
    if len(kinds) > EXACT_GROUPS:
        classes = (pairs.double().log2() * FINENESS).ceil()
        kinds, kind = classes.unique(dim=0, return_inverse=True)
    groups = []
    for number in range(len(kinds)):
        inside = kind == number
        counts, rows = pairs[inside], inside.to(queries.device)
        query_count, key_count = counts.amax(0).tolist()
        even = bool((counts == counts[0]).all())
        groups.append(QueryGroup(_trim(queries[rows]), _trim(keys[rows]), query_count, key_count, even))
    return tuple(groups)


def _trim(blocks: torch.Tensor) -> torch.Tensor:
    """Without the columns that none of these units needs; empty places stand last in every row."""
    return blocks[:, : int((blocks >= 0).sum(-1).amax())]
