"""What a judge's denoiser learns to predict: the velocity of a flow, the noise, or the velocity of a diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Objective(Protocol):
    @property
    def predicts(self) -> str:
        """What, in words."""

    def noised(self, clean: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noised samples, their timesteps from 0 to 1000, and what to predict for them; times are drawn at random."""


@dataclass(frozen=True)
class Flow:
    """Straight lines from data to noise; `shift` moves the times drawn in training towards the noise."""

    shift: float = 2.0
    predicts: str = "the velocity of a flow"

    def noised(self, clean: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        level = _levels(len(clean))
        level = self.shift * level / (1 + (self.shift - 1) * level)
        mix = level.to(clean).view(-1, *[1] * (clean.ndim - 1))
        return torch.lerp(clean, noise, mix), level.to(clean) * 1000, noise - clean


@dataclass(frozen=True)
class Diffusion:
    """The forward process of a scheduler. It asks the scheduler itself what it wants predicted."""

    scheduler: Any

    @property
    def predicts(self) -> str:
        return "v" if self.scheduler.config.prediction_type == "v_prediction" else "the noise"

    def noised(self, clean: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        steps: int = self.scheduler.config.num_train_timesteps
        times = (_levels(len(clean)) * steps).long().clamp(max=steps - 1).to(clean.device)
        noised = self.scheduler.add_noise(clean, noise, times)
        if self.scheduler.config.prediction_type == "v_prediction":
            return noised, times, self.scheduler.get_velocity(clean, noise, times)
        return noised, times, noise


@dataclass(frozen=True)
class Preconditioned:
    """The noise levels of an EDM scheduler (Karras et al. 2022, arXiv 2206.00364), which is asked itself how it scales
    what the denoiser sees and says. `middle` and `spread` are of the logarithms of the levels drawn.
    """

    scheduler: Any
    middle: float = -0.4
    spread: float = 1.4

    @property
    def predicts(self) -> str:
        return "v, scaled as EDM does" if self.scheduler.config.prediction_type == "v_prediction" else "as EDM does"

    def noised(self, clean: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        levels = (self.middle + self.spread * torch.randn(len(clean))).exp().to(clean)
        each = levels.view(-1, *[1] * (clean.ndim - 1))
        noised = clean + each * noise
        kept = self.scheduler.precondition_outputs(noised, torch.zeros_like(clean), each)
        slope = self.scheduler.precondition_outputs(noised, torch.ones_like(clean), each) - kept
        seen = self.scheduler.precondition_inputs(noised, each)
        return seen, self.scheduler.precondition_noise(levels), (clean - kept) / slope


def _levels(count: int) -> torch.Tensor:
    """Half of them around the middle, where the content is decided, the others anywhere in 0..1."""
    return torch.where(torch.rand(count) < 0.5, torch.sigmoid(torch.randn(count)), torch.rand(count))
