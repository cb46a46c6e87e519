"""T-GATE: cross-attention converges in the first steps, so it is frozen afterwards."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from accel.anatomy import Anatomy
from accel.caching.module_reuse import BOUNDARY, ReuseMethod, ReusePolicy, require
from accel.clock import StepContext
from accel.method import setting

SELF = frozenset({"self_attention", "temporal_attention"})
CROSS = frozenset({"cross_attention"})


@dataclass(frozen=True)
class TGate(ReuseMethod):
    """Freezes cross-attention after the gate step; before it, self-attention is refreshed at intervals.

    Source: T-GATE (arXiv 2404.02747), section 4. gate: the number of steps that compute cross-attention, 10 of 25 on
    Stable Diffusion (8 to 15); a number under 1 is a fraction of the run. From the warm-up to the gate, self-attention
    is computed in every `self_interval`-th step (5; PixArt 3; 1 never reuses it), and in every step from the gate on.
    The paper also drops guidance at the gate and freezes the mean of both halves. That is the guidance lever's
    business: here every stream freezes its own output, and the two compose.
    Memory: one output of every attention and stream, (B, N, D) each. Not for joint attention (Flux, SD3), which has no
    cross-attention to freeze, nor for prompts that ask for small text, which is decided late.
    """

    advice = "the run ends before the gate: lower it"
    data_free = True

    gate: float = setting(
        0.4, 0.0, None, "steps that compute cross-attention; under 1 as a fraction of the run", dial=True
    )
    self_interval: int = setting(
        5, 1, 1000, "compute self-attention every n-th step before the gate; 1 never reuses it"
    )
    _: KW_ONLY
    warmup: int = setting(2, 1, 1000, "first steps that compute everything")
    final: int = setting(0, 0, 1000, "last steps that compute everything")

    def kinds(self) -> frozenset[str]:
        return CROSS | (SELF if self.self_interval > 1 else frozenset())

    def policy(self, anatomy: Anatomy, denoiser: str) -> ReusePolicy:
        require("TGate", anatomy, denoiser, CROSS, f"{BOUNDARY}, or PAB for joint attention")
        return TGatePolicy(self.gate, self.self_interval, self.warmup)


class TGatePolicy:
    """Positions count from the beginning of the timetable, so image-to-image is gated where a full run would be."""

    probe: str | None = None

    def __init__(self, gate: float, interval: int, warmup: int) -> None:
        self.gate, self.interval, self.warmup = gate, interval, warmup

    def kinds_to_reuse(self, context: StepContext) -> frozenset[str]:
        gate = self.gate if self.gate >= 1 else round(self.gate * context.total)
        position = context.position
        if position >= gate:
            return CROSS
        if self.warmup < position < gate - 1 and position % self.interval:
            return SELF
        return frozenset()

    def after_step(self, context: StepContext, reused: frozenset[str], change: float | None) -> None:
        pass
