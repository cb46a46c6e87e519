"""FORA: every attention and feed-forward output is reused for a fixed number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from accel.anatomy import Anatomy
from accel.caching.calibration.table import StepTable
from accel.caching.module_reuse import BOUNDARY, ReuseMethod, ReusePolicy, require
from accel.caching.modules import KINDS
from accel.clock import StepContext
from accel.method import setting

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration


@dataclass(frozen=True)
class FORA(ReuseMethod):
    """Computes the attention and feed-forward modules every `interval` steps and reuses their outputs in between.

    Source: FORA (arXiv 2407.01425), section 3.2; N = 3 on DiT-XL. Outputs are kept before gate and residual, so that
    the current step's gates apply. Needs no constants and no host sync. Embeddings, norms, gates and projections are
    computed in every step, so a reused step costs 5-30 % of a full one, and a U-Net's convolutions are never saved.
    Memory: one output of every module and stream, L blocks x modules x (B, N, D). Prefer FixedInterval, which costs one
    or two latents; use FORA as the baseline that papers compare with, or where the last bit of motion matters less
    than fresh gates.
    """

    advice = "the run is too short for this warm-up and these last steps"
    data_free = True

    interval: int = setting(3, 1, 1000, "compute every n-th step; 1 never reuses", dial=True)

    @classmethod
    def for_comparison(cls) -> Sequence[FORA]:
        return (cls(warmup=5),)

    def at_share(self, share: float, calibration: Calibration | None, steps: int) -> Self:
        """The interval whose share it is; what guards compute comes on top."""
        return replace(self, interval=max(round(1.0 / share), 1))

    def kinds(self) -> frozenset[str]:
        return frozenset(KINDS) if self.interval > 1 else frozenset()

    def policy(self, anatomy: Anatomy, denoiser: str) -> ReusePolicy:
        return IntervalPolicy(self.interval, require("FORA", anatomy, denoiser, KINDS, BOUNDARY))

    def recorded_policy(self, table: StepTable) -> ReusePolicy:
        return IntervalPolicy(self.interval, frozenset(kind for kind, _ in table.curves))


class IntervalPolicy:
    """Reuses these kinds until the n-th step since they were computed."""

    probe: str | None = None

    def __init__(self, interval: int, kinds: frozenset[str]) -> None:
        self.interval, self.kinds, self._reused = interval, kinds, 0

    def kinds_to_reuse(self, context: StepContext) -> frozenset[str]:
        return self.kinds if self._reused + 1 < self.interval else frozenset()

    def after_step(self, context: StepContext, reused: frozenset[str], change: float | None) -> None:
        self._reused = self._reused + 1 if reused else 0
