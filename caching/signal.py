"""What a cache measures in every step: how far the denoiser's answer may have moved since the previous one."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from accel.calls import Call


class Probe(NamedTuple):
    """A place inside the denoiser where a signal listens: a module path, and its input or its output."""

    path: str
    part: str  # "input" or "output"


class Signal(Protocol):
    """State for one stream of one run. Distances are the largest over a batch, and cost one host sync."""

    probe: Probe | None
    note: str | None  # what the report must say about how this model is measured

    def observe(self, call: Call, heard: torch.Tensor | None) -> float | None:
        """The distance since the previous step; None while there is none. `heard` is what the probe heard."""

    def computed(self, call: Call, outputs: list[torch.Tensor]) -> None:
        """The denoiser has been evaluated."""

    def held(self) -> list[torch.Tensor]:
        """The tensors kept, for the memory account."""


class NoSignal:
    """For schedules that are known beforehand; costs nothing and never looks at a tensor."""

    probe: Probe | None = None
    note: str | None = None

    def observe(self, call: Call, heard: torch.Tensor | None) -> float | None:
        return None

    def computed(self, call: Call, outputs: list[torch.Tensor]) -> None:
        pass

    def held(self) -> list[torch.Tensor]:
        return []


def sample_means(values: list[torch.Tensor]) -> torch.Tensor:
    """Mean absolute value for each sample, in float32 -> (B,). A list of tensors is a batch of samples."""
    if len(values) == 1:
        return values[0].float().abs().flatten(1).mean(1)
    return torch.stack([value.float().abs().mean() for value in values])


def relative_distance(current: list[torch.Tensor], previous: list[torch.Tensor]) -> float:
    """The largest over the samples of mean|current - previous| / mean|previous|."""
    change = sample_means([now.float() - then.float() for now, then in zip(current, previous, strict=True)])
    return float((change / sample_means(previous).clamp_min(1e-12)).max())
