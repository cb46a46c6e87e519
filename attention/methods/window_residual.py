"""Window attention plus the residual: what a sparse plan leaves out changes little from step to step, so it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch

from accel.anatomy import Anatomy
from accel.attention.methods.sliding_tile import SlidingTile
from accel.attention.planner import AttentionInputs, AttentionResult, HeadPlan, Planner, SparseAttention
from accel.attention.step_cache import StepCache
from accel.method import nested_method, setting

FOREVER = 1 << 30


@dataclass(frozen=True)
class WindowResidual(SparseAttention):
    """Every few steps both full attention O and the sparse W; the residual R = O - W is added to W in between.

    Source: DiTFastAttn (arXiv 2406.08552), "window attention with residual sharing", whose window is a band along the
    sequence; here it is what any other method selects. Not published: the selection stays that of the first refresh, so
    that the residuals of several steps are of the same thing, and R is extrapolated linearly in the timestep through
    the last two of them (order 1; 0 holds the last one, as published). The first two intervals are half as long, so
    that extrapolation starts early and never reaches far beyond what it starts from.
    window: the sparse method, or `PooledKeys`, whose means then stand for the window; its warmup, dense_layers,
    min_tokens and reuse are not asked. A small density is enough, because the residual carries the rest, and what is
    near is what changes fast: the pocket model's clips of 128x128 in 50 steps come out 43 dB from the dense ones by
    default, 20 dB with `TopKBlocks(density=0.3)` alone in the same time. refresh: steps from one refresh to the next,
    each of which costs full attention; 1 is dense throughout (there, 5 loses 4 to 8 dB).
    warmup: residuals change most in the first steps (there, 0.1 loses 11 dB); no layer needs to stay dense.
    Memory: the residuals, as large as the attention's output, order + 1 times, in every layer and stream. Not for large
    models whose memory is full, nor beside caches that skip most steps, which leave more change to each of the others.
    """

    window: SparseAttention = nested_method(SlidingTile(density=0.02), "attention")  # noqa: RUF009
    refresh: int = setting(4, 1, None, "steps from one full attention to the next", dial=True)
    order: int = setting(1, 0, 1, "0 holds the last residual, 1 extrapolates it")
    _: KW_ONLY
    dense_layers: int = setting(0, 0, None, "layers, from the first, that stay dense")

    @classmethod
    def for_tuning(cls) -> Sequence[WindowResidual]:
        return (cls(),)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = isinstance(self.window, SparseAttention) and self.window.selects
        if not known or isinstance(self.window, WindowResidual):
            raise ValueError(
                f"WindowResidual.window must be a method that only selects keys, not {type(self.window).__name__}."
            )

    def planner(self, anatomy: Anatomy) -> Planner:
        return WindowResidualPlanner(self, self.window.planner(anatomy))


class Residual(NamedTuple):
    """What the window left out at one step."""

    step: int
    timestep: float
    values: torch.Tensor  # (B, H, L, D)


@dataclass
class _Memory:
    plans: Sequence[HeadPlan]
    residuals: list[Residual]
    refreshes: int = 0


class WindowResidualPlanner(Planner):
    """Holds one selection and the last residuals for each self-attention."""

    def __init__(self, method: WindowResidual, window: Planner) -> None:
        self.method, self.window = method, window
        self._memory: StepCache[_Memory] = StepCache(FOREVER)

    def compute(self, inputs: AttentionInputs) -> AttentionResult | None:
        own = self.window.compute(inputs)
        if own is None:
            return None
        if self._memory.get(inputs) is None:
            self._memory.put(inputs, _Memory([], []))
        return own._replace(output=self.correct(inputs, own.output))

    def plan(self, inputs: AttentionInputs) -> Sequence[HeadPlan] | None:
        memory = self._memory.get(inputs)
        if memory is None or not memory.plans:
            plans = self.window.plan(inputs)
            if plans is None:
                return None
            memory = _Memory(plans, [])
            self._memory.put(inputs, memory)
        return memory.plans

    def correct(self, inputs: AttentionInputs, output: torch.Tensor) -> torch.Tensor:
        memory = self._memory.get(inputs)
        if memory is None:
            return output
        context, order = inputs.site.context, self.method.order
        since = context.step - memory.residuals[-1].step if memory.residuals else 0
        if since >= interval(memory.refreshes, self.method.refresh, order):
            full, memory.refreshes = inputs.dense(), memory.refreshes + 1
            memory.residuals = [*memory.residuals, Residual(context.step, context.timestep, full - output)][
                -1 - order :
            ]
            return full
        for residual, weight in zip(memory.residuals, weights(memory.residuals, context.timestep), strict=True):
            output = torch.add(output, residual.values, alpha=weight)
        return output

    def kept_tensors(self) -> list[torch.Tensor]:
        residuals = [residual.values for memory in self._memory for residual in memory.residuals]
        plans = [plan for memory in self._memory for _, plan in memory.plans if plan is not None]
        return [*residuals, *(plan.key_blocks for plan in plans)]


def interval(refreshes: int, refresh: int, order: int) -> int:
    """Steps from the last refresh to the next, after so many of them."""
    if not refreshes:
        return 0
    return (refresh + 1) // 2 if order and refreshes <= 2 else refresh


def weights(residuals: Sequence[Residual], timestep: float) -> list[float]:
    """What each residual counts at this timestep: on the line through two of them, or the only one."""
    if len(residuals) < 2 or residuals[0].timestep == residuals[1].timestep:
        return [0.0] * (len(residuals) - 1) + [1.0]
    ahead = (timestep - residuals[1].timestep) / (residuals[1].timestep - residuals[0].timestep)
    return [-ahead, 1 + ahead]
