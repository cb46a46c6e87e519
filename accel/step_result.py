"""The sample in what a scheduler's `step` returns, whichever of its two forms that has."""

from __future__ import annotations

from typing import Any

import torch


def sample_of(result: Any) -> torch.Tensor:
    """The sample in what a scheduler's `step` returns."""
    sample: torch.Tensor = result[0] if isinstance(result, tuple) else result.prev_sample
    return sample


def with_sample(result: Any, sample: torch.Tensor) -> Any:
    """The scheduler's output, tuple or output object, with this sample in its dtype."""
    dtype = sample_of(result).dtype
    sample = sample if sample.dtype == dtype else sample.to(dtype)  # to ask is cheaper than a conversion that is none
    return (sample, *result[1:]) if isinstance(result, tuple) else type(result)(**{**result, "prev_sample": sample})
