"""Pooled keys: while noise is high, queries see means over blocks of the video's keys and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from accel.anatomy import Anatomy
from accel.attention.blocks import Region, Sizes, regions
from accel.attention.break_even import min_tokens_for_pooling
from accel.attention.kernels import samples_with_text
from accel.attention.layout import TokenLayout
from accel.attention.log_sum_exp import PartialAttention, weighted, with_exact, with_log_sum
from accel.attention.planner import AttentionInputs, AttentionResult, HeadPlan, Planner, SparseAttention
from accel.method import setting


@dataclass(frozen=True)
class PooledKeys(SparseAttention):
    """Every query sees the text as it is, and in place of the video's keys and values their means over blocks.

    Not published as such; pooled keys and values are those of PVT (arXiv 2102.12122), here without training. With
    n keys in a block, rotary embedding applied, its mean key has n times the weight, which is exact where the keys of a
    block are equal, and otherwise the first term of a series in their differences. It runs on the device's own dense
    kernel: no keys are gathered and nothing is compiled.
    until: the noise level (1 is pure noise) from which on all keys are seen; 0 pools in all steps.
    factor: frames, rows and columns of a block, in tokens; at the ends of the axes blocks are smaller. Which axis bears
    it depends on the model: the pocket model's clips at 128x128 are 21 dB from the dense ones with three frames in one,
    and 17 dB with 2 x 2 tokens, at the same speed. near: (frames, rows, columns) of the tiles, whole blocks, within
    which queries see the keys themselves, merged by log-sum-exp; None sees means alone. It costs two more attentions,
    and (3, 4, 4) loses 2 dB there.
    Cost: 1/n of the attention, and a pass over keys and values. Memory: the pooled ones, and float32 copies of the
    output where `near` is given. Not where single tokens carry the picture, as at small sizes with large patches;
    `WindowResidual(PooledKeys(...))` puts back what the means leave out.
    """

    until: float = setting(0.0, 0.0, 1.0, "noise level at which all keys are seen; 1 is never pooled", dial=True)
    factor: Sizes = (1, 2, 2)
    near: Sizes | None = None
    _: KW_ONLY
    warmup: float = setting(0.0, 0.0, 1.0, "share of the steps, from the first, that stay dense")
    dense_layers: int = setting(0, 0, None, "layers, from the first, that stay dense")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("factor", self.factor)
        if self.near is not None:
            _check("near", self.near)
            if any(size % block for size, block in zip(self.near, self.factor, strict=True)):
                raise ValueError(f"PooledKeys.near must be whole blocks of the factor {self.factor}, not {self.near}.")

    def least_tokens(self, device: torch.device) -> int:
        return min_tokens_for_pooling(device.type) if self.min_tokens < 0 else self.min_tokens

    def planner(self, anatomy: Anatomy) -> Planner:
        return PooledKeysPlanner(self)


class PooledKeysPlanner(Planner):
    """Computes while noise is high; has no plans and remembers nothing."""

    def __init__(self, method: PooledKeys) -> None:
        self.method = method

    def plan(self, inputs: AttentionInputs) -> Sequence[HeadPlan] | None:
        return None

    def compute(self, inputs: AttentionInputs) -> AttentionResult | None:
        method, layout = self.method, inputs.layout
        if math.prod(method.factor) == 1 or inputs.site.context.time <= method.until:
            return None
        parts = list(regions(layout, method.factor))
        out = torch.empty_like(inputs.q, memory_format=torch.contiguous_format)
        for rows, text in samples_with_text(inputs):
            q, k, v = inputs.q[rows], inputs.k[rows], inputs.v[rows]
            out[rows] = pooled_attention(q, k, v, layout, parts, inputs.scale, text, method.near)
        return AttentionResult(out, pooled_density(layout, parts, method.near), "pooled keys")


def pooled_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, parts: Sequence[Region], scale: float,
    text: torch.Tensor, near: Sizes | None,
) -> torch.Tensor:  # fmt: skip
    """(B, H, L, D) what all queries see of means over the blocks of these parts, and of the text at these places."""
    keys, values = means(k, layout, parts, text), means(v, layout, parts, text)
    weights = log_counts(parts, text)
    if near is None:
        return weighted(q, keys, values, scale, weights)
    whole = with_log_sum(q, keys, values, scale, weights)
    out = whole.output.clone(memory_format=torch.contiguous_format)
    for tile in regions(layout, near):
        _see_near(tile, out, whole, q, k, v, layout, parts[0].block, scale)
    return out


def _see_near(
    tile: Region, out: torch.Tensor, whole: PartialAttention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
    layout: TokenLayout, block: Sizes, scale: float,
) -> None:  # fmt: skip
    """Writes the outputs of queries that see the keys of their own tile themselves."""
    heads = q.shape[1]

    def tiles(tokens: torch.Tensor) -> torch.Tensor:
        """(B, heads of all tiles, tokens of one, D)"""
        return tile.blocks(on_grid(tokens, layout)).flatten(1, 2)

    here, none = TokenLayout(*tile.block), k.new_empty(0, dtype=torch.long)
    near, keys, values = tiles(q), tiles(k), tiles(v)
    parts = list(regions(here, block))
    pooled = means(keys, here, parts, none), means(values, here, parts, none)
    seen = PartialAttention(tiles(whole.output), tiles(whole.log_sum[..., None])[..., 0])
    merged = with_exact(
        seen, with_log_sum(near, *pooled, scale, log_counts(parts, none)), with_log_sum(near, keys, values, scale)
    )
    tile.put(merged.unflatten(1, (heads, -1)), on_grid(out, layout))


def means(tokens: torch.Tensor, layout: TokenLayout, parts: Sequence[Region], text: torch.Tensor) -> torch.Tensor:
    """(B, H, n, D) the means of the blocks, and the tokens of the text."""
    grid = on_grid(tokens, layout)
    pooled = [part.means(grid) for part in parts]
    return torch.cat([*pooled, tokens.index_select(2, text)] if len(text) else pooled, 2)


def log_counts(parts: Sequence[Region], text: torch.Tensor) -> torch.Tensor | float:
    """(n,) the logarithm of how many keys each stands for; one number where all stand for as many."""
    sizes = [(math.prod(part.counts), part.size) for part in parts] + [(len(text), 1)] * bool(len(text))
    if len({size for _, size in sizes}) == 1:
        return math.log(sizes[0][1])
    return torch.cat([torch.full((many,), math.log(size), device=text.device) for many, size in sizes])


def on_grid(tokens: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """(B, H, frames, height, width, D), a view."""
    grid: torch.Tensor = tokens[:, :, layout.video_rows].unflatten(2, (layout.frames, layout.height, layout.width))
    return grid


def pooled_density(layout: TokenLayout, parts: Sequence[Region], near: Sizes | None) -> float:
    """The share of the query-key pairs."""
    pooled = layout.text + sum(math.prod(part.counts) for part in parts)
    tiles = [] if near is None else list(regions(layout, near))
    exact = sum(math.prod(tile.counts) * tile.size**2 * (1 + 1 / parts[0].size) for tile in tiles)
    return (layout.tokens * pooled + exact) / layout.tokens**2


def _check(name: str, value: object) -> None:
    right = isinstance(value, tuple) and len(value) == 3 and all(type(size) is int and size >= 1 for size in value)
    if not right:
        raise ValueError(
            f"PooledKeys.{name} must be (frames, height, width) in tokens, whole numbers from 1, not {value!r}."
        )
