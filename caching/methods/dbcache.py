"""DBCache: like FirstBlockCache behind the first several blocks, with the guards of cache-dit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod
from accel.caching.calibration.recorded_signals import Distance, drift_behind, no_distance
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.methods.firstblock import BlockResidual, WithinThreshold, after_blocks
from accel.caching.policy import Decision, Policy, nearest_entry
from accel.caching.signal import NoSignal, Signal
from accel.method import setting
from accel.reasons import Code


@dataclass(frozen=True)
class DBCache(CacheMethod):
    """Skips while what the first `first` blocks add differs from the last computed step by at most `threshold`.

    Source: cache-dit's dual block cache. first is its Fn; threshold its residual_diff_threshold, with d as in
    `FirstBlockCache` (0 never skips); warmup its max_warmup_steps (2 to 4 suit runs of up to 28 steps); max_skips its
    max_continuous_cached_steps, max_cached its max_cached_steps for the whole run. More blocks measure better and save
    less: F8 is the careful setting, F1 the fast one. Blocks are counted through all lists in the order in which they
    run (Flux: transformer_blocks, then single_transformer_blocks).
    mask: cache-dit's steps_computation_mask, 1 for each step that must compute and 0 for each that may be skipped; a
    run of another length takes the nearest entry. policy "dynamic": the zeros still obey the threshold; "static": they
    are always skipped, nothing is probed and a skipped step costs nothing. Warm-up, last steps and caps hold anyway.
    Its Bn, last blocks that always run as a corrector, cannot exist at the denoiser's boundary: a prediction there
    stands for the whole denoiser, these blocks included, so they have no fresh tokens to work on.
    Memory: one residual, (B, N, D) at most twice, and the predictor's outputs. A skipped step costs everything up to
    the end of block `first`. Works with `compile_repeated_blocks`, without recompiling. Not for U-Nets, nor for
    denoisers with no more than `first` blocks.
    """

    threshold: float = setting(
        0.08, 0.0, None, "relative change since the last computed step; 0 never skips", dial=True
    )
    first: int = setting(8, 1, 1000, "blocks in front of the probe")
    max_cached: int = setting(1000, 0, 1000, "most predictions in a run")
    mask: tuple[int, ...] | None = None
    policy: str = setting("dynamic", choices=("dynamic", "static"), help="what the zeros of the mask mean")
    _: KW_ONLY
    warmup: int = setting(8, 1, 1000, "first steps that always compute")
    max_skips: int = setting(1000, 1, 1000, "most predictions in a row")

    def __post_init__(self) -> None:
        super().__post_init__()
        mask = self.mask
        if mask is not None and not (isinstance(mask, tuple) and mask and all(step in (0, 1) for step in mask)):
            raise ValueError(f"DBCache.mask must be a tuple of 1 (compute) and 0 (may be skipped), not {mask!r}.")
        if mask is None and self.policy == "static":
            raise ValueError('DBCache.policy "static" skips the zeros of a mask: give one, such as mask=(1, 1, 0, 1).')

    @classmethod
    def for_comparison(cls) -> Sequence[DBCache]:
        return (cls(first=2, warmup=5, max_skips=7),)

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        if self.policy == "static":
            return NoSignal(), self._decider()
        probe = after_blocks(f"DBCache(first={self.first})", anatomy, denoiser, self.first)
        return BlockResidual(probe), self._decider()

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        static = self.policy == "static"
        return no_distance if static else drift_behind(self.first, "DBCache", table, trace), self._decider()

    def _decider(self) -> CappedDistance:
        return CappedDistance(None if self.policy == "static" else self.threshold, self.max_cached, self.mask)


class CappedDistance(Policy):
    """Skips where the mask allows it, within the threshold (None: whatever the distance), `most` times in a run."""

    def __init__(self, threshold: float | None, most: int, mask: tuple[int, ...] | None) -> None:
        self.within = None if threshold is None else WithinThreshold(threshold)
        self.most, self.mask, self._skipped = most, mask, 0

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        if self._must_compute(position, total):
            return Decision(False, "computed by the mask")
        if self._skipped >= self.most:
            return Decision(False, f"{self.most} predictions in this run", Code.MOST_SKIPS)
        decision = Decision(True, "skipped by the mask")
        if self.within is not None:
            decision = self.within.decide(distance, position, total)
        self._skipped += decision.skip
        return decision

    def after_compute(self) -> None:
        pass

    def _must_compute(self, position: int, total: int) -> bool:
        if self.mask is None:
            return False
        return self.mask[nearest_entry(position, total, len(self.mask))] == 1
