"""Token merging: tokens that are alike go through self-attention as one, and all of them receive its output."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from accel.anatomy import Anatomy
from accel.attention.layout import TokenLayout
from accel.attention.lever import attention_lever
from accel.attention.planner import AttentionInputs, AttentionResult, HeadPlan, Planner, SparseAttention
from accel.attention.unets.high_resolution import GAINS_FROM, known_unets, unknown
from accel.lever import InactiveLever, Lever
from accel.method import setting

CHUNK = 1 << 24  # similarities in memory at a time


@dataclass(frozen=True)
class TokenMerging(SparseAttention):
    """Merges `ratio` of the tokens into those they are most alike, in the self-attentions of the highest resolution.

    Source: Token Merging for Fast Stable Diffusion (arXiv 2303.17604). One token of every cell of stride x stride is
    drawn as a destination (from `seed`, for each step and module; the same for both halves of guidance); of the others
    those that are most like their best destination become part of its mean. Keys, averaged over heads, say what is
    alike, as in ToMe (arXiv 2210.09461); the paper here takes the input of the block. Queries, keys and values are
    averaged, which after projections without norms is the same as to average what they are made of.
    ratio: 0.5 leaves half of the tokens and a quarter of the pairs; stride 2 allows up to 0.75. queries: False merges
    keys and values only, which keeps details and saves half as much.
    For Stable Diffusion 1.5, 2.1 and SDXL. Not for transformers with rotary embeddings, where a mean of two keys is at
    no place. Memory: 64 MiB at most while tokens are compared.
    """

    ratio: float = setting(0.5, 0.0, 0.99, "share of the tokens to merge away; 0 changes nothing", dial=True)
    stride: int = setting(2, 2, 16, "side of the cells that keep one token each, at least")
    queries: bool = True
    seed: int = setting(0, 0, None, "of the destinations")
    _: KW_ONLY
    warmup: float = setting(0.0, 0.0, 1.0, "share of the steps, from the first, that stay dense")
    dense_layers: int = setting(0, 0, None, "layers, from the first, that stay dense")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.queries, bool):
            raise TypeError(f"TokenMerging.queries must be True or False, not {self.queries!r}.")

    def planner(self, anatomy: Anatomy) -> Planner:
        return MergingPlanner(self, {name: unet.finest for name, unet in known_unets(anatomy).items()})

    def build(self, anatomy: Anatomy) -> Lever:
        return (
            attention_lever(self, anatomy)
            if known_unets(anatomy)
            else InactiveLever(self, unknown("TokenMerging", anatomy))
        )


class MergingPlanner(Planner):
    """Computes the self-attentions under `finest` itself, without a plan."""

    def __init__(self, method: TokenMerging, finest: Mapping[str, tuple[str, ...]]) -> None:
        self.method, self.finest = method, finest

    def plan(self, inputs: AttentionInputs) -> Sequence[HeadPlan] | None:
        return None

    def compute(self, inputs: AttentionInputs) -> AttentionResult | None:
        site, method, layout = inputs.site, self.method, inputs.layout
        if method.min_tokens < 0 and layout.tokens < GAINS_FROM:
            return None
        if layout.text or not site.path.startswith(self.finest.get(site.denoiser, ())):
            return None
        draw = random.Random(f"{method.seed} {site.context.step} {site.path}").getrandbits(62)
        kept = destinations(layout, method.stride, draw).to(inputs.q.device)
        merging = match_tokens(inputs.k.mean(1), kept, int(method.ratio * layout.tokens))
        if not merging.merged_tokens:
            return None
        k, v = merging.merged(inputs.k), merging.merged(inputs.v)
        q = merging.merged(inputs.q) if method.queries else inputs.q
        output = F.scaled_dot_product_attention(q, k, v, scale=inputs.scale)
        density = q.shape[2] * k.shape[2] / layout.tokens**2
        return AttentionResult(merging.unmerged(output) if method.queries else output, density, "token merging")


class Merging(NamedTuple):
    """Which tokens become one.

    order: (B, M) the tokens that remain: those that are merged with nothing, then the destinations.
    sources: (B, r) those that are merged. targets: (B, r) the places in `order` of their destinations.
    places: (B, L) the place in `order` of every token, or of the one that it is part of.
    """

    order: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor
    places: torch.Tensor

    @property
    def merged_tokens(self) -> int:
        """How many are merged."""
        return self.sources.shape[1]

    def merged(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, H, L, D) -> (B, H, M, D): each destination is the mean of itself and of what is merged into it.

        It is moved by the mean distance, so that the mean of equal tokens is the token itself to the bit.
        """
        found = []
        rows = tokens.transpose(1, 2).flatten(2)  # (B, L, H D), which is how the model has them in memory
        for sample, order, sources, targets in zip(rows, self.order, self.sources, self.targets, strict=True):
            remain = sample.index_select(0, order)
            moves = (sample.index_select(0, sources) - remain.index_select(0, targets)).float()
            sums = torch.zeros(remain.shape, device=remain.device).index_add_(0, targets, moves)
            counts = targets.bincount(minlength=len(order)) + 1
            found.append(remain + (sums / counts[:, None]).to(remain.dtype))
        return _with_heads(found, tokens.shape[1])

    def unmerged(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, H, M, D) -> (B, H, L, D): every token gets what the one that it is part of has."""
        rows = tokens.transpose(1, 2).flatten(2)
        found = [sample.index_select(0, places) for sample, places in zip(rows, self.places, strict=True)]
        return _with_heads(found, tokens.shape[1])


def _with_heads(samples: Sequence[torch.Tensor], heads: int) -> torch.Tensor:
    """(B, H, n, D) of rows (n, H D)."""
    rows = torch.stack(list(samples))
    return rows.view(len(rows), rows.shape[1], heads, -1).transpose(1, 2)


def destinations(layout: TokenLayout, stride: int, seed: int) -> torch.Tensor:
    """One random token of every cell of stride x stride, in order; cells at the end may be smaller."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = (torch.arange(0, length, stride) for length in (layout.height, layout.width))
    high, wide = (layout.height - rows).clamp_max(stride), (layout.width - columns).clamp_max(stride)
    chances = torch.rand(2, layout.frames, len(rows), len(columns), generator=draw)
    row = rows[:, None] + (chances[0] * high[:, None]).long()
    column = columns + (chances[1] * wide).long()
    frame = torch.arange(layout.frames)[:, None, None] * layout.frame
    return (frame + row * layout.width + column).flatten().sort().values


def match_tokens(metric: torch.Tensor, kept: torch.Tensor, count: int) -> Merging:
    """Bipartite soft matching: merges the `count` tokens with the largest cosine to a destination.

    metric: (B, L, C) what similarity is measured on. kept: (n,) the destinations. At most all others are merged.
    """
    samples, tokens, _ = metric.shape
    others = torch.ones(tokens, dtype=torch.bool, device=metric.device).index_fill_(0, kept, False).nonzero().flatten()
    count, unit = min(count, len(others)), F.normalize(metric, dim=-1)
    best = [part.max(-1) for part in _similarities(unit, others, kept)]
    likeness, choice = torch.cat([part.values for part in best], 1), torch.cat([part.indices for part in best], 1)
    ranked = likeness.argsort(dim=1, descending=True, stable=True)
    merged, alone = ranked[:, :count], ranked[:, count:].sort(dim=1).values
    order = torch.cat([others[alone], kept.expand(samples, -1)], dim=1)
    targets = choice.gather(1, merged) + alone.shape[1]
    places = torch.empty(samples, tokens, dtype=torch.long, device=metric.device)
    places.scatter_(1, order, torch.arange(order.shape[1], device=metric.device).expand(samples, -1))
    places.scatter_(1, others[merged], targets)
    return Merging(order, others[merged], targets, places)


def _similarities(unit: torch.Tensor, others: torch.Tensor, kept: torch.Tensor) -> Iterator[torch.Tensor]:
    """(B, some, n) cosines of the others to the destinations, some at a time."""
    ends = unit.index_select(1, kept).mT
    for some in others.split(max(CHUNK // (len(unit) * len(kept)), 1)):
        yield unit.index_select(1, some) @ ends
