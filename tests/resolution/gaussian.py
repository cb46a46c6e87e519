"""A pipeline whose denoiser is exact for Gaussian pictures, at their own size and at that of means over blocks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

SIDE, BLOCK = 8, 2


def spreading() -> torch.Tensor:
    """(64, 16): each of 4 x 4 values once for every pixel of its block."""
    line = torch.eye(SIDE // BLOCK, dtype=torch.float64).repeat_interleave(BLOCK, 0)
    return torch.kron(line, line)


def smooth() -> torch.Tensor:
    """(16, 16): the covariance of the small pictures."""
    where = torch.arange(SIDE // BLOCK, dtype=torch.float64)
    line = torch.exp(-(where[:, None] - where).abs() / 2)
    return torch.kron(line, line)


class GaussianDenoiser(torch.nn.Module):
    """The exact prediction for pictures of which each block has one value (fine=0), or for such pictures with
    independent details of that variance within the blocks; and for their means over blocks.
    """

    def __init__(self, scheduler: Any, kind: str, fine: float) -> None:
        super().__init__()
        self.kind, self.scheduler, self.config, self.asked = kind, scheduler, {}, []
        spread = spreading()
        within = torch.eye(SIDE**2, dtype=torch.float64) - spread @ spread.T / BLOCK**2
        self.covariance = {SIDE // BLOCK: smooth(), SIDE: spread @ smooth() @ spread.T + fine * within}

    def forward(self, sample: torch.Tensor, timestep: Any) -> tuple[torch.Tensor]:
        self.asked.append(sample.shape[-1])
        signal, noise = self._shares(float(timestep))
        covariance = self.covariance[sample.shape[-1]]
        x = sample.double().flatten(1)
        seen = signal**2 * covariance + noise**2 * torch.eye(len(covariance), dtype=torch.float64)
        clean = signal * torch.linalg.solve(seen, x.T).T @ covariance
        details = (x - signal * clean) / noise
        output = {"flow": details - clean, "epsilon": details, "v_prediction": signal * details - noise * clean}
        return (output[self.kind].reshape(sample.shape).to(sample.dtype),)

    def _shares(self, timestep: float) -> tuple[float, float]:
        if self.kind == "flow":
            return 1 - timestep / 1000, timestep / 1000
        alphas = self.scheduler.alphas_cumprod.double().numpy()
        ratio = math.exp(float(np.interp(timestep, np.arange(1000), np.log((1 - alphas) / alphas) / 2)))
        return 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)


class GaussianPipeline:
    def __init__(self, scheduler: Any, kind: str, fine: float = 0.0) -> None:
        self.scheduler, self.config = scheduler, SimpleNamespace(_name_or_path="")
        self.unet = GaussianDenoiser(scheduler, kind, fine)
        self.components = {"unet": self.unet, "scheduler": scheduler}

    def __call__(self, num_inference_steps: int = 20) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        sample = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        sample = sample * getattr(self.scheduler, "init_noise_sigma", 1.0)
        for timestep in self.scheduler.timesteps:
            scaled = getattr(self.scheduler, "scale_model_input", lambda same, _: same)(sample, timestep)
            sample = self.scheduler.step(self.unet(scaled, timestep)[0], timestep, sample, return_dict=False)[0]
        return sample


def means(pictures: torch.Tensor) -> torch.Tensor:
    """Over blocks."""
    return torch.nn.functional.avg_pool2d(pictures, BLOCK)
