"""The low frequencies of a video's initial noise, which decide what stays the same over its frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from accel.components import components_of, denoisers_of

LEAK = 0.936
"""How much of the first sample is noise (t of `accel.parametrization`) where FreeInit was published: 1 / (1 + 14.6) is
signal in the schedule of Stable Diffusion, which video models of its family are trained with."""

ORDER = 4


def blended(low: torch.Tensor, high: torch.Tensor, channels: int, spatial: float, temporal: float) -> torch.Tensor:
    """The low frequencies of one video latent and the high ones of another, in float32.

    low, high: (batch, channels, frames, height, width), or with frames and channels exchanged; channels: which axis
    holds them, 1 or 2. spatial, temporal: where the Butterworth filter passes half, as shares of the highest frequency.
    """
    axes = tuple(axis for axis in (1, 2, 3, 4) if axis != channels)
    squares: Any = 0.0
    for axis, stop in zip(axes, (temporal, spatial, spatial), strict=True):
        frequencies = 2.0 * torch.fft.fftfreq(low.shape[axis]) / stop
        squares = squares + (frequencies**2).view([-1 if other == axis else 1 for other in range(5)])
    passed = (1.0 / (1.0 + squares**ORDER)).to(low.device)
    kept, fresh = (torch.fft.fftn(x.float(), dim=axes) for x in (low, high))
    mixed: torch.Tensor = torch.fft.ifftn(kept * passed + fresh * (1.0 - passed), dim=axes).real
    return mixed


def refilled(
    clean: torch.Tensor, scheduler: Any, channels: int, seed: int, spatial: float, temporal: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A change of initial noise: its low frequencies become those of the clean latents under that very noise, its high
    ones are drawn anew.

    With as much signal as leaks into the first sample where the technique was published. A flow's first sample is noise
    alone, so nothing would be kept of the clean latents at its own first level.
    """

    def change(noise: torch.Tensor) -> torch.Tensor:
        scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
        length = math.hypot(1.0 - LEAK, LEAK)
        under = ((1.0 - LEAK) * clean.float() + LEAK * noise.float() / scale) / length
        fresh = torch.randn(noise.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(noise.device)
        return blended(under, fresh, channels, spatial, temporal) * scale

    return change


def channel_axis(latents: torch.Tensor, pipe: Any) -> int:
    """1 or 2: where a video latent (batch, ., ., height, width) has its channels, by what the denoiser says.
    Raises ValueError for latents that are no such video.
    """
    configs: list[Any] = [part.config for _, part in denoisers_of(components_of(pipe)) if hasattr(part, "config")]
    known = {config.get(name) for config in configs for name in ("in_channels", "out_channels")}
    axes = [axis for axis in (1, 2) if latents.ndim == 5 and latents.shape[axis] in known]
    if not axes or latents.shape[3 - axes[0]] < 2:
        raise ValueError(
            f"{type(pipe).__name__} begins with latents of shape {tuple(latents.shape)}, and a video of several frames "
            "with (batch, channels, frames, height, width) is needed: low frequencies over time are what is kept."
        )
    return axes[0]


def check_stops(**stops: float) -> None:
    for name, stop in stops.items():
        if not (isinstance(stop, (int, float)) and 0.0 < stop <= 1.0):
            raise ValueError(f"{name} is a share of the highest frequency, above 0 and at most 1, not {stop!r}.")
