"""Top-k blocks: each block of queries sees the blocks of keys whose means promise the most attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from accel.anatomy import Anatomy
from accel.attention.break_even import max_density_to_gain
from accel.attention.density import video_density
from accel.attention.layout import TokenLayout
from accel.attention.orders import compact_tiles
from accel.attention.plan import KeyPlan
from accel.attention.planner import AttentionInputs, HeadPlan, Planner, SparseAttention, heads_by_number
from accel.attention.step_cache import StepCache
from accel.method import setting

UNITS = 16  # heads differ in density by multiples of 1/16, so that few of them need a plan of their own


@dataclass(frozen=True)
class TopKBlocks(SparseAttention):
    """Tokens in compact tiles of space and time; each tile of queries sees its own and those tiles of keys that get the
    most of its attention, as estimated from the means of queries and keys.

    Source: SpargeAttn (arXiv 2502.18137) in its top-k mode, without the skipping inside of its kernel: means of blocks,
    keys minus their overall mean, a softmax over blocks, the k best. Tiles in the place of runs of tokens as in Jenga
    (arXiv 2505.16864). Samples and heads select for themselves, anew in each step.
    density: share of the pairs to compute, the mean over heads; the published advice is 0.5. adaptive: 1 lets the heads
    of one attention share that density by what they miss, so heads that look at few places leave their part to those
    that look everywhere, and a head that would be computed faster whole becomes dense (not published; DraftAttention,
    arXiv 2505.14708, ranks the blocks of a whole map); 0 gives all the same. similarity: blocks of keys whose tokens
    have a mean cosine below it come first, because their mean says little about them (published: off in top-k mode,
    where 0 does the same, 0.6 otherwise; it gained nothing on the pocket model).
    block: tokens of a tile, roughly: the tile that best divides the grid is taken. Smaller ones miss less and cost the
    kernel more; 128 suits a GPU. reuse: steps for which a selection holds.
    Memory: blocks^2 of probabilities for each head while selecting; with reuse also the selection, 8 bytes for each
    pair of blocks that is computed, in every layer and stream. Not for heads whose attention is spread evenly: at low
    density they are what is wrong first (the pocket model has one in every other layer), and `WindowResidual` around
    this method is the way to keep them.
    """

    density: float = setting(0.3, 0.01, 1.0, "share of the pairs to compute", dial=True)
    block: int = setting(64, 1, 4096, "tokens of a block, roughly")
    adaptive: int = setting(1, 0, 1, "1: heads share the density by what they miss; 0: all have the same")
    similarity: float = setting(0.0, 0.0, 1.0, "blocks of keys less alike than this go first; 0: none")
    reuse: int = setting(1, 1, None, "steps for which a selection holds")

    def planner(self, anatomy: Anatomy) -> Planner:
        return TopKPlanner(self)


class TopKPlanner(Planner):
    """Selects blocks, and remembers the selection if it may hold for more than a step."""

    def __init__(self, method: TopKBlocks) -> None:
        self.method = method
        self._selected: StepCache[list[HeadPlan]] = StepCache(method.reuse)
        self._orders: dict[tuple[TokenLayout, torch.device], torch.Tensor] = {}

    def plan(self, inputs: AttentionInputs) -> Sequence[HeadPlan] | None:
        density = video_density(inputs.layout, self.method.density)
        if density >= 1:
            return None
        known = self._selected.get(inputs)
        if known is None:
            known = self._select(inputs, density)
            if self.method.reuse > 1:
                self._selected.put(inputs, known)
        return None if all(plan is None for _, plan in known) else known

    def kept_tensors(self) -> list[torch.Tensor]:
        plans = (plan for found in self._selected for _, plan in found if plan is not None)
        return [*self._orders.values(), *(plan.key_blocks for plan in plans)]

    def _select(self, inputs: AttentionInputs, density: float) -> list[HeadPlan]:
        order = self._order(inputs.layout, inputs.q.device)
        attention = block_attention(inputs, order, self.method.similarity)
        blocks = len(order)
        alike = max(int(density * blocks), 1)
        adaptive = self.method.adaptive
        groups = [*heads_by_number(shared(_gains(attention), density))] if adaptive else [(alike, None)]
        found = []
        for count, chosen in groups:
            if count > self._most(inputs) * blocks or count == blocks:
                found.append(HeadPlan(chosen, None))
                continue
            own = attention if chosen is None else attention.index_select(1, chosen)
            selected = own.topk(count, -1).indices
            found.append(HeadPlan(chosen, KeyPlan(inputs.layout, order, selected, share=count / blocks)))
        return found

    def _most(self, inputs: AttentionInputs) -> float:
        """The density above which a head had better be dense."""
        return max_density_to_gain(inputs.q.device.type) if self.method.min_tokens < 0 else 1.0

    def _order(self, layout: TokenLayout, device: torch.device) -> torch.Tensor:
        key = (layout, device)
        if key not in self._orders:
            self._orders[key] = compact_tiles(layout, self.method.block).to(device)
        return self._orders[key]


def block_attention(inputs: AttentionInputs, order: torch.Tensor, similarity: float = 0.0) -> torch.Tensor:
    """(B, H, blocks, blocks) the share of attention that each block of queries pays to each block of keys, estimated
    from means: exact where all tokens of a block are equal.

    What must be selected stands above all shares: the block's own at 3, blocks of keys that are not alike at 1 to 2.
    """
    video = inputs.layout.video_rows
    there = (order >= 0)[..., None]
    counts = there.sum(1)
    k = inputs.k[:, :, video]
    k = k - k.mean(2, keepdim=True)  # every query loses the same for all keys, so its softmax stays, and means say more
    queries = _blocks(inputs.q[:, :, video], order, there).sum(-2) / counts
    keys = _blocks(k, order, there)
    means = keys.sum(-2) / counts
    attention = (queries @ means.mT * inputs.scale + counts[:, 0].log()).softmax(-1)
    if similarity:
        # The mean cosine of all pairs is the squared length of the mean of the normalised tokens.
        directions = torch.nn.functional.normalize(keys, dim=-1).sum(-2) / counts
        attention = attention + (directions.square().sum(-1) < similarity)[:, :, None]
    attention.diagonal(dim1=-2, dim2=-1).fill_(3.0)
    return attention


def shared(gains: torch.Tensor, density: float) -> torch.Tensor:
    """(H,) how many blocks each head sees, `density` of them on average: as many as gain more than any that others
    leave.

    gains: (H, blocks) what the best block of a head adds, the second best, and so on; largest first in each row.
    """
    heads, blocks = gains.shape
    wanted = int(density * blocks * heads + 1e-6)
    unit = min(max(blocks // UNITS, 1), max(wanted // heads, 1))
    units = torch.nn.functional.pad(gains, (0, -blocks % unit)).unflatten(1, (-1, unit)).mean(-1)
    units[:, 0] = float("inf")  # every row of queries sees something
    best = units.flatten().topk(min(max(wanted // unit, heads), units.numel())).indices
    counts = best.new_zeros(heads).index_add_(0, best // units.shape[1], torch.full_like(best, unit))
    few: torch.Tensor = counts.clamp_max(blocks)
    return few


def _gains(attention: torch.Tensor) -> torch.Tensor:
    """(H, blocks) what each rank of blocks gets, on average over samples and blocks of queries; head by head, because
    sorting needs several times the memory of what is sorted.
    """
    ranks = [attention[:, head].sort(-1, descending=True).values.mean((0, 1)) for head in range(attention.shape[1])]
    return torch.stack(ranks)


def _blocks(tokens: torch.Tensor, order: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """(B, H, blocks, size, D) in float32, zero where a block has no token."""
    found = tokens[:, :, order.clamp_min(0)].float()
    return found if order.numel() == tokens.shape[2] else found * there
