"""DiCache: a shallow probe says when to compute, and how far to go along the line of the last two computed outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod
from accel.caching.calibration.recorded_signals import Distance, change_of
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.methods.firstblock import after_blocks
from accel.caching.policy import AccumulatedDistance, Decision, Policy
from accel.caching.predictor import PastValues, Predictor, at
from accel.caching.signal import Probe, Signal, sample_means
from accel.call import DenoiserCall
from accel.method import nested_method, setting
from accel.reasons import Code


@dataclass(frozen=True)
class Align(Predictor, lever="predictor"):
    """O0 + gamma (O1 - O0), from the last two computed outputs, as far as the probe has moved.

    Source: DiCache (arXiv 2508.17356), dynamic cache trajectory alignment. p is the residual of the probed blocks now,
    p0 and p1 at the two computed steps; gamma = mean|p - p0| / mean|p1 - p0| for each sample, within 1 and `limit`.
    Published for the residual of the block stack; here O is the denoiser's own output, which is that residual's image
    under the last norm and projection. It is exact where the output is affine in p along one direction. With a single
    computed output it is reused. Streams that only follow (the unconditional one) take the leading stream's gamma.
    Where the cache measures no alignment (every cache but DiCache), noise level takes the place of the probe:
    gamma = (t - t0) / (t1 - t0), within the same limits.
    Not without a probe (every cache but DiCache): `Extrapolate` goes along the same line there, and corrects.
    Memory: two outputs (latent size) per stream.
    """

    limit: float = setting(1.5, 1.0, None, "most that gamma may be: 1 reuses, 1.5 as published, 2 for Wan")

    @property
    def depth(self) -> int:
        return 2

    def forecast(self, call: DenoiserCall, history: list[PastValues], kind: str) -> PastValues:
        newer = history[-1]
        if len(history) == 1:
            return at(call, [value.clone() for value in newer.values], kind)
        older = history[-2]
        gamma = call.alignment
        if gamma is None:
            gone = (call.context.time - older.time) / ((newer.time - older.time) or 1.0)
            gamma = newer.values[0].new_full((1,), gone, dtype=torch.float32)  # a list would be copied, and waited for
        gamma = gamma.clamp(1.0, self.limit)
        pairs = enumerate(zip(older.values, newer.values, strict=True))
        values = [
            torch.lerp(then.float(), now.float(), _share(gamma, now, index, len(call.latents))).to(now.dtype)
            for index, (then, now) in pairs
        ]
        return at(call, values, kind)


@dataclass(frozen=True)
class DiCache(CacheMethod):
    """Skips while the accumulated change of what the first `depth` blocks return stays under `threshold`.

    Source: DiCache (arXiv 2508.17356), online probe profiling. With h the probed tokens and x those that enter, both
    against the previous STEP, relL1 the mean absolute change over the mean absolute value: mode "delta_y" accumulates
    relL1(h), "delta_minus" |relL1(h) - relL1(x)|. The largest over a batch counts. Skipped steps are predicted by
    `Align` as published; any other predictor will do. retention: fraction of the run that computes first.
    Published: Flux at 30 steps delta_y 0.4 with retention 0.2, or delta_minus 0.08 without; Wan 0.08 and limit 2,
    HunyuanVideo 0.1, both with retention 0.2.
    Memory: probed tokens of the previous step, (B, N, D) once for delta_y and twice for delta_minus, the probe's
    residuals of two computed steps and of the present one, and the predictor's outputs: on video models much more than
    the caches that look at latents only. A skipped step costs everything up to the end of block `depth`. Works with
    `compile_repeated_blocks`, without recompiling. Not for U-Nets, nor for runs of few steps.
    """

    threshold: float = setting(0.1, 0.0, None, "relative change that may accumulate; 0 never skips", dial=True)
    depth: int = setting(1, 1, 1000, "blocks in front of the probe; 1 to 5")
    mode: str = setting(
        "delta_y", choices=("delta_y", "delta_minus"), help="change of the output, or of output over input"
    )
    retention: float = setting(0.2, 0.0, 1.0, "fraction of the run that computes first")
    _: KW_ONLY
    predictor: Predictor = nested_method(Align(), "predictor")  # noqa: RUF009
    warmup: int = setting(1, 1, 1000, "first steps that always compute")
    max_skips: int = setting(1000, 1, 1000, "most predictions in a row")

    @classmethod
    def for_comparison(cls) -> Sequence[DiCache]:
        return (cls(retention=0.1),)

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        probe = after_blocks(f"DiCache(depth={self.depth})", anatomy, denoiser, self.depth)
        return ProbeTrajectory(probe, self.mode), RetainedDistance(self.retention, AccumulatedDistance(self.threshold))

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        if self.depth != 1 or self.mode != "delta_y":
            raise ValueError('DiCache can be simulated with depth=1 and mode="delta_y" only.')
        change = change_of("block_output", "DiCache", table, trace)
        return change, RetainedDistance(self.retention, AccumulatedDistance(self.threshold))


class ProbeTrajectory:
    """Change of the probed tokens since the previous step, and where their residual stands between the last two
    computed ones.
    """

    note: str | None = None

    def __init__(self, probe: Probe, mode: str) -> None:
        self.probe: Probe | None = probe
        self.alignment: torch.Tensor | None = None  # (B,), not yet limited
        self._mode = mode
        self._previous: list[torch.Tensor] = []  # h and, for delta_minus, x of the previous step
        self._residual: torch.Tensor | None = None
        self._windows: list[torch.Tensor] = []  # residuals of the last two computed steps, oldest first

    def observe(self, call: DenoiserCall, heard: torch.Tensor | None) -> float | None:
        assert heard is not None  # the gate passes what the probe heard
        entered, left = heard
        self._residual = left - entered
        # Copies, because `heard` is one tensor and a part of it would keep all of it alive.
        now = [left.clone(), entered.clone()] if self._mode == "delta_minus" else [left.clone()]
        previous, self._previous = self._previous, now
        self.alignment = None
        if not previous or previous[0].shape != left.shape:
            self._windows = []
            return None
        if len(self._windows) == 2:
            older, newer = self._windows
            whole = sample_means([newer - older]).clamp_min(1e-12)
            self.alignment = sample_means([self._residual - older]) / whole
        changes = [_relative_changes(after, before) for after, before in zip(now, previous, strict=True)]
        return float((changes[0] - changes[1] if len(changes) == 2 else changes[0]).abs().max())

    def after_compute(self, call: DenoiserCall, outputs: list[torch.Tensor]) -> None:
        # A computed step that was not heard leaves nothing to compare with: the windows belong to the last two.
        self._windows = [] if self._residual is None else [*self._windows, self._residual][-2:]
        self._residual = None

    def kept_tensors(self) -> list[torch.Tensor]:
        now = [] if self._residual is None else [self._residual]
        return [*self._previous, *now, *self._windows]


class RetainedDistance(Policy):
    """Computes the first `fraction` of the run, then leaves it to another policy."""

    def __init__(self, fraction: float, policy: Policy) -> None:
        self.fraction, self.policy = fraction, policy

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        if position < int(self.fraction * total):
            return Decision(False, "retention", Code.WARM_UP)
        return self.policy.decide(distance, position, total)

    def after_compute(self) -> None:
        self.policy.after_compute()


def _relative_changes(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """mean|now - before| / mean|before| for each sample -> (B,)."""
    return sample_means([now.float() - before.float()]) / sample_means([before]).clamp_min(1e-12)


def _share(gamma: torch.Tensor, value: torch.Tensor, index: int, inputs: int) -> torch.Tensor:
    """What of gamma, one number for each sample, belongs to this output, in a shape that multiplies it."""
    if gamma.numel() == value.shape[0] and inputs == 1:
        return gamma.view(-1, *[1] * (value.ndim - 1))
    if gamma.numel() == inputs and index < inputs:
        return gamma[index]  # a list of tensors is a batch of samples
    return gamma.mean()  # the model counts its tokens' batch otherwise (frames as samples)
