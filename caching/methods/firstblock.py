"""FirstBlockCache: what the first block adds to the image tokens tells whether the other blocks are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import torch

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod, NotApplicable
from accel.caching.calibration.recorded_signals import Distance, drift_behind
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.policy import Decision, Policy
from accel.caching.signal import Probe, Signal, relative_distance
from accel.call import DenoiserCall
from accel.method import setting
from accel.reasons import Code

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration


@dataclass(frozen=True)
class FirstBlockCache(CacheMethod):
    """Skips while the first block's residual differs from that of the last computed step by at most `threshold`.

    Source: ParaAttention's First Block Cache, as in diffusers: q = block 0's output - input, image tokens only;
    d = mean|q - q'| / mean|q'| with q' from the last COMPUTED step, so that drift is bounded without accumulation;
    compute iff d > threshold. The largest d over a batch counts. Threshold 0 never skips (by the formula alone it
    would skip exact repetitions). Published thresholds: 0.05 to 0.12 for Flux at 28 steps, 0.06 for HunyuanVideo.
    Published as without warm-up, cap or forced last step; the reused tail of the block stack is here the `predictor` at
    the denoiser's boundary.
    Memory: the residual q', (B, N, D) at most twice, and the predictor's outputs. A skipped step costs everything up to
    the end of the first block. Works with `compile_repeated_blocks`, without recompiling; not with a denoiser that is
    compiled as a whole. Not for U-Nets, which have no such blocks, nor for runs of few steps.
    """

    threshold: float = setting(
        0.05, 0.0, None, "relative change since the last computed step; 0 never skips", dial=True
    )
    _: KW_ONLY
    warmup: int = setting(1, 1, 1000, "first steps that always compute")
    max_skips: int = setting(1000, 1, 1000, "most predictions in a row")

    @classmethod
    def cautions(cls, calibration: Calibration) -> Sequence[str]:
        if any(run.drifts for table in calibration.tables for run in table.runs):
            return ()
        return ("FirstBlockCache, DBCache and DiCache cannot be simulated, because there is no first block to probe",)

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        return BlockResidual(after_blocks("FirstBlockCache", anatomy, denoiser, 1)), WithinThreshold(self.threshold)

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        return drift_behind(1, "FirstBlockCache", table, trace), WithinThreshold(self.threshold)


class BlockResidual:
    """Relative change of what the first blocks add to the image tokens, since the last computed step."""

    note: str | None = None

    def __init__(self, probe: Probe) -> None:
        self.probe: Probe | None = probe
        self._now: torch.Tensor | None = None  # (B, N, D)
        self._full: torch.Tensor | None = None  # the same at the last computed step

    def observe(self, call: DenoiserCall, heard: torch.Tensor | None) -> float | None:
        assert heard is not None  # the gate passes what the probe heard
        now = self._now = heard[1] - heard[0]
        if self._full is None or self._full.shape != now.shape:
            return None
        return relative_distance([now], [self._full])

    def after_compute(self, call: DenoiserCall, outputs: list[torch.Tensor]) -> None:
        self._full, self._now = self._now, None

    def kept_tensors(self) -> list[torch.Tensor]:
        return [value for value in (self._now, self._full) if value is not None]


class WithinThreshold(Policy):
    """Skips while the distance, which is counted from the last computed step, is at most `threshold`; 0 never skips."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        if distance is None:
            return Decision(False, "no distance yet", Code.NO_HISTORY)
        if distance <= self.threshold and self.threshold > 0:
            return Decision(True, f"distance {distance:.3g} ≤ {self.threshold:g}")
        return Decision(False, f"distance {distance:.3g} ≥ {self.threshold:g}", Code.OVER_THRESHOLD)

    def after_compute(self) -> None:
        pass


def after_blocks(method: str, anatomy: Anatomy, denoiser: str, count: int) -> Probe:
    """The probe behind the first `count` blocks, counted through the lists of blocks in the order in which they run.

    Lists that run in between another's blocks do not count. Raises NotApplicable where there are no blocks, or none
    behind the probe.
    """
    part = anatomy.denoisers[denoiser]
    lists = {path: size for path, size in part.blocks.items() if path not in part.family.interleaved_blocks}
    total = sum(lists.values())
    if not total:
        raise NotApplicable(
            f"{method} finds no transformer blocks in {part.kind} to probe; use a cache that needs none, such as "
            f"SeaCache or FixedInterval."
        )
    if count >= total:
        raise NotApplicable(
            f"{method} would leave {part.kind} behind block {count}, but it has {total}, so nothing would be skipped; "
            f"probe fewer blocks or use a cache that needs none, such as SeaCache."
        )
    path, index = [(path, index) for path, size in lists.items() for index in range(size)][count - 1]
    entries = tuple(dict.fromkeys((f"{next(iter(lists))}.0", f"{path}.0")))
    return Probe(f"{path}.{index}", "blocks", entries, part.image_output[path])
