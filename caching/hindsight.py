"""How good the last forecast was, or would have been: read off the computed output that follows it.

A forecast that is too bold does harm that a timid one does not, and how bold it may be differs between models, guidance
scales and parts of one run. Each computed output tells it at no cost: so far should the forecast have gone. It is a
function of this run alone, so the same call gives the same output every time, and there is no host sync.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

TINY = 1e-30


class Hindsight(NamedTuple):
    """For each sample, shaped to multiply with it, (B, 1, ...), in float32.

    slope: the share of the forecast's way that comes nearest to where the output went (least squares); not below 0.
    trust: twice the share of the output's movement that it explains (R²), at most 1; 0 where it pointed backwards.
    """

    slope: torch.Tensor
    trust: torch.Tensor


def hindsight(last: torch.Tensor, forecast: torch.Tensor, output: torch.Tensor) -> Hindsight:
    """What `output` says about a `forecast` of it that was made when `last` was known; all (B, ...). A forecast that
    does not move explains nothing.
    """
    last, axes = last.float(), tuple(range(1, last.ndim))
    foreseen, moved = forecast.float() - last, output.float() - last
    along = (moved * foreseen).sum(axes, keepdim=True).clamp_min(0.0)
    slope = along / foreseen.square().sum(axes, keepdim=True).clamp_min(TINY)
    explained = slope * along / moved.square().sum(axes, keepdim=True).clamp_min(TINY)
    return Hindsight(slope, (2.0 * explained).clamp_max(1.0))


def largest_error(forecasts: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """|forecast - output| / |output| of the sample, (B, ...), that was forecast worst; a host sync."""
    errors = []
    for forecast, output in zip(forecasts, outputs, strict=True):
        axes = tuple(range(1, output.ndim))
        wrong, size = (torch.linalg.vector_norm(part.float(), dim=axes) for part in (forecast - output, output))
        errors.append((wrong / size.clamp_min(TINY)).max())
    return float(torch.stack(errors).max())
