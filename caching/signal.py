"""What a cache measures in every step: how far the denoiser's output may have moved since the previous one."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from accel.call import DenoiserCall

# Modules whose change follows the timestep, by their names in `DenoiserAnatomy`, and what is listened to there. The
# modulated input is what the first block's self-attention receives.
TIME_SIGNALS = {"modulated_input": "input", "time_embedding": "output", "time_projection": "output"}


class Probe(NamedTuple):
    """A place inside the denoiser where a signal listens: a module path, and its input or its output.

    part "blocks": what the first blocks make of the image tokens, (2, B, N, D): as they enter the module at the first
    of `entries` and as they leave the one at `path`. A list of blocks that works on other tokens than the list before
    it (text and image in one row) is measured from its own entry, the last of `entries`.
    """

    path: str
    part: str  # "input", "output" or "blocks"
    entries: tuple[str, ...] = ()
    element: int = 0  # where the image tokens stand in a tuple that the module returns


class Signal(Protocol):
    """State for one stream of one run. Distances are the largest over a batch, and cost one host sync.

    A signal may have an `alignment`, (B,): how far this step has come from the last but one computed step (0) by way of
    the last (1), and beyond. The gate passes it to the predictor with every stream's call of that step.
    """

    probe: Probe | None
    note: str | None  # what the report must say about how this model is measured

    def observe(self, call: DenoiserCall, heard: torch.Tensor | None) -> float | None:
        """The distance since the previous step; None while there is none. `heard` is what the probe heard."""

    def after_compute(self, call: DenoiserCall, outputs: list[torch.Tensor]) -> None:
        """The denoiser has been evaluated."""

    def kept_tensors(self) -> list[torch.Tensor]:
        """The tensors kept, for the memory account."""


class NoSignal:
    """For schedules that are known beforehand; costs nothing and never looks at a tensor."""

    probe: Probe | None = None
    note: str | None = None

    def observe(self, call: DenoiserCall, heard: torch.Tensor | None) -> float | None:
        return None

    def after_compute(self, call: DenoiserCall, outputs: list[torch.Tensor]) -> None:
        pass

    def kept_tensors(self) -> list[torch.Tensor]:
        return []


def sample_means(values: list[torch.Tensor]) -> torch.Tensor:
    """Mean absolute value for each sample, in float32 -> (B,). A list of tensors is a batch of samples."""
    if len(values) == 1:
        return values[0].float().abs().flatten(1).mean(1)
    return torch.stack([value.float().abs().mean() for value in values])


def relative_distance(current: list[torch.Tensor], previous: list[torch.Tensor]) -> float:
    """The largest over the samples of mean|current - previous| / mean|previous|: the one that moved most decides."""
    change = sample_means([now.float() - then.float() for now, then in zip(current, previous, strict=True)])
    return float((change / sample_means(previous).clamp_min(1e-12)).max())
