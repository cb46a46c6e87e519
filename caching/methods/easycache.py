"""EasyCache: predicts the output's change from the input's, with a rate learned during the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod
from accel.caching.calibration.recorded_signals import Distance, at_lag
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.policy import AccumulatedDistance, Policy
from accel.caching.signal import Probe, Signal, sample_means
from accel.call import DenoiserCall, noise_part
from accel.method import setting


@dataclass(frozen=True)
class EasyCache(CacheMethod):
    """Skips while the predicted relative change of the output since the last computed step stays under `threshold`.

    Source: EasyCache (arXiv 2507.02860), equations 4-6: rate k = |out - out'| / |in - in'| between the last two
    computed steps; the sum of k |in_t - in_(t-1)| / |out'| decides. Mean absolute values; the largest over a batch
    counts. Nothing to calibrate. Published thresholds: 0.05 for Wan (warmup 10 of 50 steps), 0.025 for HunyuanVideo.
    Memory: three latents for the signal and the predictor's outputs. Not for runs of few steps.
    """

    threshold: float = setting(
        0.05, 0.0, None, "predicted relative change that may accumulate; 0 never skips", dial=True
    )
    _: KW_ONLY
    max_skips: int = setting(1000, 1, 1000, "most predictions in a row")

    @classmethod
    def for_tuning(cls) -> Sequence[EasyCache]:
        return (cls(warmup=3, max_skips=7),)

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        return TransformationRate(), AccumulatedDistance(self.threshold)

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        def distance(step: int, computed: Sequence[int]) -> float | None:
            if len(computed) < 2:
                return None
            before, last = computed[-2:]
            rate = at_lag(trace.rates[last], last - before, growing=False)
            return rate * trace.moves[step] / max(trace.sizes[last], 1e-12)

        return distance, AccumulatedDistance(self.threshold)


class TransformationRate:
    """k |in_t - in_(t-1)| / |out_full|, where k is the output's change per input change between computed steps."""

    probe: Probe | None = None
    note: str | None = None

    def __init__(self) -> None:
        self._rate: torch.Tensor | None = None  # (B,)
        self._previous: list[torch.Tensor] | None = None
        self._full: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None  # input, output

    def observe(self, call: DenoiserCall, heard: torch.Tensor | None) -> float | None:
        if self._full is None or self._previous is None:
            return None
        inputs, previous = _matching(call, self._full[1]), self._previous
        self._previous = [value.detach().clone() for value in inputs]
        if self._rate is None:
            return None
        moved = sample_means([now - then for now, then in zip(inputs, previous, strict=True)])
        return float((self._rate * moved / sample_means(self._full[1]).clamp_min(1e-12)).max())

    def after_compute(self, call: DenoiserCall, outputs: list[torch.Tensor]) -> None:
        outputs = [output.detach().clone() for output in outputs[: len(call.latents)]]
        inputs = [value.detach().clone() for value in _matching(call, outputs)]
        if self._full is not None:
            moved_in = sample_means([a - b for a, b in zip(inputs, self._full[0], strict=True)])
            moved_out = sample_means([a - b for a, b in zip(outputs, self._full[1], strict=True)])
            self._rate = moved_out / moved_in.clamp_min(1e-12)
        self._previous, self._full = inputs, (inputs, outputs)

    def kept_tensors(self) -> list[torch.Tensor]:
        return [
            *(self._previous or []),
            *(self._full[0] if self._full else []),
            *(self._full[1] if self._full else []),
        ]


def _matching(call: DenoiserCall, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The noisy channels of the input where there are more of them than the output has."""
    parts = []
    for value, output in zip(call.latents, outputs, strict=False):
        part = noise_part(value, output)
        parts.append(value if part is None else part)
    return parts
