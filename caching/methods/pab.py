"""Pyramid Attention Broadcast: the slower an attention changes, the longer its output is reused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accel.anatomy import Anatomy
from accel.caching.module_reuse import BOUNDARY, ReuseMethod, ReusePolicy, require
from accel.clock import StepContext
from accel.method import finite_numbers, setting


@dataclass(frozen=True)
class PAB(ReuseMethod):
    """Reuses attention outputs within a window of timesteps: cross-attention longest, then temporal, then spatial.

    Source: PAB (arXiv 2408.12588), section 3.2. Between timesteps `window` (0..1000, both ends excluded; a flow's
    timestep is 1000 sigma) each kind is computed in every n-th step of the run. Attention changes most in the first and
    last 15 % of the steps, which the window leaves alone. Published: Latte 6 / 2 / 3 in (100, 800), Open-Sora 1.2
    6 / 2 / 4 in (450, 930), CogVideoX spatial 2 in (100, 850). spatial counts joint attention as well. 1 never reuses.
    The paper's broadcast of single MLPs at listed timesteps is not included.
    Memory: one output of every attention and stream, (B, N, D) each: far above a cache at the denoiser's boundary.
    Worth it where attention is most of the time (long videos); cross alone is safe and cheap on Wan, LTX and PixArt.
    """

    advice = "no step within the window lies between computed ones: widen it or raise the ranges"
    data_free = True

    cross: int = setting(6, 1, 1000, "steps for which a cross-attention's output serves", dial=True)
    spatial: int = setting(2, 1, 1000, "the same for self-attention and joint attention", dial=True)
    temporal: int = setting(4, 1, 1000, "the same for attention along time", dial=True)
    window: tuple[float, float] = (100.0, 800.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (finite_numbers(self.window) and len(self.window) == 2 and self.window[0] <= self.window[1]):
            raise ValueError(f"PAB.window must be (low, high) in timesteps of 0..1000, not {self.window!r}.")

    @property
    def ranges(self) -> dict[str, int]:
        """How many steps an output serves, for every kind that is ever reused."""
        given = {
            "self_attention": self.spatial,
            "temporal_attention": self.temporal,
            "cross_attention": self.cross,
        }
        return {kind: steps for kind, steps in given.items() if steps > 1}

    def kinds(self) -> frozenset[str]:
        return frozenset(self.ranges)

    def policy(self, anatomy: Anatomy, denoiser: str) -> ReusePolicy:
        if self.ranges:
            require("PAB", anatomy, denoiser, self.ranges, f"give it a range of another kind or {BOUNDARY}")
        return BroadcastPolicy(self.ranges, self.window)


class BroadcastPolicy:
    """Within the window, computes a kind when the run's step count is a multiple of its range."""

    probe: str | None = None

    def __init__(self, ranges: Mapping[str, int], window: tuple[float, float]) -> None:
        self.ranges, self.window = ranges, window

    def kinds_to_reuse(self, context: StepContext) -> frozenset[str]:
        low, high = self.window
        if not low < context.timestep < high:
            return frozenset()
        return frozenset(kind for kind, steps in self.ranges.items() if context.step % steps)

    def after_step(self, context: StepContext, reused: frozenset[str], change: float | None) -> None:
        pass
