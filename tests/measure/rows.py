"""Rows and samples of a comparison that never ran."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from accel.measure.measurements import Quality, Sample
from accel.measure.rows import ResultRow


def row(label: str, kind: Any, speedup: float, psnrs: list[float]) -> ResultRow:
    """A contestant with these values of PSNR."""
    return ResultRow(
        label=label, kind=kind, steps=50, seconds=1.0 / speedup, seconds_range=(1.0 / speedup, 1.0 / speedup),
        before=0.0, denoise=1.0 / speedup, after=0.0, speedup=speedup, speedup_range=(speedup, speedup),
        denoise_speedup=speedup, cpu_speedup=None, psnr=fmean(psnrs) if psnrs else None,
        psnr_worst=min(psnrs, default=None), ssim=None, flicker_difference=None, frame_difference_psnr=None,
        adherence=None, attributes={}, computed=100, predicted=0, dropped=0, extra_bytes=0, peak_bytes=None, runs=1,
    )  # fmt: skip


def sample(label: str, psnr: float) -> Sample:
    """One measured call of it."""
    return Sample(
        label=label, batch=0, prompt=0, seed=0, repeat=0, seconds=1.0, cpu_seconds=1.0, before=0.0, denoise=1.0,
        after=0.0, computed=100, predicted=0, dropped=0, extra_bytes=0, peak_bytes=None, quality=Quality(psnr=psnr),
    )  # fmt: skip
