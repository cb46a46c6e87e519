"""SeaCache: measures the change of the latents after removing what is only noise at this noise level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod
from accel.caching.calibration.recorded_signals import Distance, change_of
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.policy import AccumulatedDistance, Policy
from accel.caching.signal import Probe, Signal, relative_distance
from accel.call import DenoiserCall
from accel.latents import on_grid
from accel.method import setting


@dataclass(frozen=True)
class SeaCache(CacheMethod):
    """Skips while the filtered latents' accumulated relative change stays under `threshold`.

    Source: SeaCache (arXiv 2602.18993), equation 7 and section 3.3, on the raw latents as in diffusers. The filter is
    Wiener's for a clean spectrum 1/f^p at the present noise level, so that the distance follows the content and not the
    noise. Nothing to calibrate. Published thresholds: 0.3 for about 2x, 0.6 for about 3x, max_skips 2.
    Memory: one filtered latent and the predictor's outputs. Cost: two FFTs of the latents per step. Where the
    latents' rows and columns are not known, the change is measured without the filter, and the report says so. Not for
    runs of few steps.
    """

    threshold: float = setting(0.25, 0.0, None, "relative change that may accumulate; 0 never skips", dial=True)
    power: float = setting(0.0, 0.0, 10.0, "exponent of the clean spectrum; 0 takes 3 for video and 2 for images")
    _: KW_ONLY
    warmup: int = setting(1, 1, 1000, "first steps that always compute")
    max_skips: int = setting(2, 1, 1000, "most predictions in a row")

    @classmethod
    def for_tuning(cls) -> Sequence[SeaCache]:
        return (cls(warmup=3, max_skips=7),)

    @classmethod
    def columns(cls, anatomy: Anatomy, denoiser: str) -> Mapping[str, Signal]:
        return {"spectral": SpectralChange(0.0, anatomy.prediction, anatomy.denoisers[denoiser].config)}

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        config = anatomy.denoisers[denoiser].config
        return SpectralChange(self.power, anatomy.prediction, config), AccumulatedDistance(self.threshold)

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        if self.power:
            raise ValueError("SeaCache can be simulated at its default power only; set power=0.")
        return change_of("spectral", "SeaCache", table, trace), AccumulatedDistance(self.threshold)


class SpectralChange:
    """Relative change of the filtered latents between consecutive steps."""

    probe: Probe | None = None
    note: str | None = None

    def __init__(self, power: float, kind: str, config: Mapping[str, Any]) -> None:
        self._power, self._kind, self._config = power, kind, config
        self._previous: torch.Tensor | None = None

    def observe(self, call: DenoiserCall, heard: torch.Tensor | None) -> float | None:
        found = on_grid(call, self._config)
        if found is None:
            self.note = "measured without the filter, because it is not known where the latents keep rows and columns"
            current = call.latents[0].detach().float().clone()
        else:
            latents, axes = found
            power = self._power or (3.0 if latents.ndim == 5 else 2.0)
            current = sea_filter(latents, axes, *levels(call.context.sigma, self._kind), power)
        previous, self._previous = self._previous, current
        return None if previous is None else relative_distance([current], [previous])

    def after_compute(self, call: DenoiserCall, outputs: list[torch.Tensor]) -> None:
        pass

    def kept_tensors(self) -> list[torch.Tensor]:
        return [] if self._previous is None else [self._previous]


def levels(sigma: float, kind: str) -> tuple[float, float]:
    """Scale of the clean signal and of the noise in the denoiser's input at this sigma."""
    if "flow" in kind:
        sigma = min(max(sigma, 1e-6), 1 - 1e-6)
        return 1.0 - sigma, sigma
    scale = 1.0 / math.sqrt(1.0 + sigma * sigma)
    return scale, max(sigma, 1e-6) * scale


def sea_filter(latents: torch.Tensor, axes: tuple[int, ...], signal: float, noise: float, power: float) -> torch.Tensor:
    """Wiener filter a S / (a^2 S + b^2) with S = 1/|f|^p along each of the axes, normalised to a mean gain of 1.

    Linear, commutes with shifts, and the identity where there is no noise. Any shape -> the same, float32.
    """
    gain = torch.ones(1, device=latents.device)
    for axis in axes:
        frequency = torch.fft.fftfreq(latents.shape[axis], device=latents.device)
        # Written without 1/f^p: a S / (a^2 S + b^2) = a / (a^2 + b^2 f^p).
        along = signal / (signal**2 + noise**2 * frequency.abs().pow(power))
        gain = gain * along.view([-1 if index == axis else 1 for index in range(latents.ndim)])
    spectrum = torch.fft.fftn(latents.float(), dim=axes)
    filtered: torch.Tensor = torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=axes).real
    return filtered
