"""Sparse VideoGen: heads that look within frames, and heads that look at one place through all frames."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from accel.anatomy import Anatomy
from accel.attention.density import video_density
from accel.attention.layout import TokenLayout
from accel.attention.orders import frame_major, token_major
from accel.attention.plan import KeyPlan
from accel.attention.planner import AttentionInputs, AttentionSite, HeadPlan, Planner, SparseAttention, heads_by_number
from accel.attention.step_cache import StepCache
from accel.method import setting


@dataclass(frozen=True)
class SparseVideoGen(SparseAttention):
    """Gives each head the better of two windows, chosen online on a few rows of queries; heads that fit neither stay
    dense.

    Source: Sparse VideoGen (arXiv 2502.01776). Both windows are one band of blocks: over the tokens frame by frame
    (spatial heads: the nearest frames, or part of one) and pixel by pixel (temporal heads: the nearest pixels, in all
    frames). Unlike the paper's: bands at the ends are shifted and not cut off, so that all blocks see equally many;
    pixels follow a Hilbert curve and not the rows, so that near pixels are near on both axes; and the third class.
    density: share of the pairs that sparse heads compute; it sets the width of the bands. tolerance: relative L2 error,
    on the sampled rows, above which a head stays dense, so the density reached may be above the one asked for;
    infinity makes every head sparse, as published. rows: sampled queries, spread evenly at random over the sequence
    (published: 64, and 32 for CogVideoX); they cost 2 rows / L of dense attention or a little more. reuse: steps for
    which a choice holds (published: 1). sink: 1 adds the first frame to the keys of spatial heads (published for Wan).
    Samples of a batch share the choice: errors are summed over them. Published densities: 0.25 to 0.3, with the first
    10 to 30 % of the steps dense. Memory: one number for each head. Not for models of few steps, nor of few or small
    frames, where the bands cover most of what there is; `TopKBlocks` does better on short clips.
    """

    density: float = setting(0.3, 0.01, 1.0, "share of the pairs that a sparse head computes", dial=True)
    block: int = setting(64, 1, 4096, "tokens of a block")
    rows: int = setting(32, 1, None, "queries sampled to choose a head's class")
    tolerance: float = setting(0.3, 0.0, None, "relative error above which a head stays dense")
    reuse: int = setting(4, 1, None, "steps for which a choice holds")
    sink: int = setting(0, 0, 1, "1 lets spatial heads see the first frame")

    def planner(self, anatomy: Anatomy) -> Planner:
        return SparseVideoGenPlanner(self)

    def windows(self, layout: TokenLayout) -> list[KeyPlan]:
        """The spatial and the temporal window of this density."""
        size = min(self.block, layout.video)
        sink = -(-layout.frame // size) if self.sink else 0
        return [
            _widest(layout, frame_major(layout, size), self.density, sink),
            _widest(layout, token_major(layout, size), self.density, 0),
        ]


class SparseVideoGenPlanner(Planner):
    """Remembers which heads are spatial and which temporal; the others are dense."""

    def __init__(self, method: SparseVideoGen) -> None:
        self.method = method
        self._known: StepCache[list[HeadPlan]] = StepCache(method.reuse)
        self._rows: dict[tuple[object, ...], torch.Tensor] = {}
        self._windows: dict[tuple[TokenLayout, torch.device], list[KeyPlan]] = {}

    def plan(self, inputs: AttentionInputs) -> Sequence[HeadPlan] | None:
        plans = self.windows(inputs.layout, inputs.q.device)
        if plans[0].density >= 1:
            return None
        known = self._known.get(inputs)
        if known is None:
            known = [HeadPlan(heads, [*plans, None][number]) for number, heads in self._choose(inputs, plans)]
            self._known.put(inputs, known)
        return None if all(plan is None for _, plan in known) else known

    def windows(self, layout: TokenLayout, device: torch.device) -> list[KeyPlan]:
        """The spatial and the temporal window."""
        key = (layout, device)
        if key not in self._windows:
            self._windows[key] = [
                KeyPlan(layout, plan.order.to(device), plan.key_blocks.to(device))
                for plan in self.method.windows(layout)
            ]
        return self._windows[key]

    def kept_tensors(self) -> list[torch.Tensor]:
        windows = [
            tensor for plans in self._windows.values() for plan in plans for tensor in (plan.order, plan.key_blocks)
        ]
        heads = [some for found in self._known for some, _ in found if some is not None]
        return [*heads, *self._rows.values(), *windows]

    def _choose(self, inputs: AttentionInputs, plans: Sequence[KeyPlan]) -> Iterator[tuple[int, torch.Tensor | None]]:
        """The numbers of the plans, the last of which is dense, and the heads that follow each."""
        best, kind = window_errors(inputs, plans, self._sampled(inputs)).min(0)
        return heads_by_number(torch.where(best <= self.method.tolerance, kind, len(plans)))

    def _sampled(self, inputs: AttentionInputs) -> torch.Tensor:
        """The sampled rows of this step. Those of all steps are drawn at the first: a copy to a GPU is waited for."""
        site = inputs.site
        key = (site.denoiser, site.path, inputs.layout, inputs.q.device)
        if key not in self._rows:
            self._rows[key] = torch.stack(
                [
                    sampled_rows(site, step, inputs.layout.video, self.method.rows)
                    for step in range(site.context.total or 1)
                ]
            ).to(inputs.q.device)
        return self._rows[key][site.context.step % len(self._rows[key])]


def window_errors(inputs: AttentionInputs, plans: Sequence[KeyPlan], rows: torch.Tensor) -> torch.Tensor:
    """(plans, H) relative L2 error of the outputs of these rows of queries, over all samples, under each plan.

    rows: numbers of video tokens. The weights are computed once and cut down by each plan.
    """
    layout = inputs.layout
    q = inputs.q[:, :, layout.video_rows].index_select(2, rows)
    scores = (q @ inputs.k.mT).float() * inputs.scale
    if inputs.key_mask is not None:
        scores = scores.masked_fill(~inputs.key_mask[:, None, None], float("-inf"))
    weights = scores.softmax(-1)
    cut = [weights] + [weights * _seen(plan, rows) for plan in plans]
    shares = torch.stack([part.sum(-1, keepdim=True) for part in cut]).clamp_min(torch.finfo(torch.float32).tiny)
    outputs = torch.cat(cut, dim=2).to(inputs.v.dtype) @ inputs.v
    exact, *windows = outputs.float().unflatten(2, (len(cut), len(rows))).unbind(2)
    wrong = torch.stack([window / shares[number] for number, window in enumerate(windows, 1)]) - exact
    errors: torch.Tensor = wrong.square().sum((1, 3, 4)) / exact.square().sum((0, 2, 3)).clamp_min(1e-20)
    return errors.sqrt()


def sampled_rows(site: AttentionSite, step: int, video: int, count: int) -> torch.Tensor:
    """One random video token out of each of `count` equal parts of the sequence: the same in every run, others at every
    step and module.
    """
    count = min(count, video)
    seed = zlib.crc32(f"{site.denoiser} {site.path} {step}".encode())
    chance = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((torch.arange(count) + chance) * (video / count)).long().clamp_max(video - 1)


def _widest(layout: TokenLayout, order: torch.Tensor, density: float, sink: int) -> KeyPlan:
    """The widest band within the density; the narrowest where none is."""
    blocks = len(order)
    width = min(max(int(video_density(layout, density) * blocks) + 1, sink + 1), blocks)
    plan = KeyPlan(layout, order, band(blocks, width, sink).to(order.device))
    while plan.density > density and width > sink + 1:
        width -= 1
        plan = KeyPlan(layout, order, band(blocks, width, sink).to(order.device))
    return plan


def band(blocks: int, width: int, sink: int = 0) -> torch.Tensor:
    """(blocks, width) the nearest blocks of each block, shifted inwards at the ends; the first `sink` ones always."""
    sink = min(sink, width, blocks)
    near = min(width, blocks) - sink
    first = (torch.arange(blocks) - (near - 1) // 2).clamp(sink, max(blocks - near, sink))
    always = torch.arange(sink).expand(blocks, -1)
    return torch.cat([always, first[:, None] + torch.arange(near)], dim=1)


def _seen(plan: KeyPlan, rows: torch.Tensor) -> torch.Tensor:
    """(rows, L) whether each of these video tokens sees each key."""
    layout, blocks = plan.layout, len(plan.order)
    places = torch.where(plan.order >= 0, plan.order, layout.video).flatten()  # padding goes to a place of its own
    numbers = torch.arange(blocks, device=rows.device).repeat_interleave(plan.size)
    block_of = plan.order.new_empty(layout.video + 1).scatter_(0, places, numbers)[:-1]
    sees = torch.zeros(blocks, blocks, dtype=torch.bool, device=rows.device).scatter_(1, plan.key_blocks, True)
    seen = torch.ones(len(rows), layout.tokens, dtype=torch.bool, device=rows.device)
    seen[:, layout.video_rows] = sees[block_of[rows]][:, block_of]
    return seen
