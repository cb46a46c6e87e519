"""A pipeline of ten lines whose denoiser is a formula, so that expected values can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

Formula = Callable[[torch.Tensor, float], torch.Tensor]


class Attention(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


class ToyDenoiser(torch.nn.Module):
    """prediction = formula(latents, sigma). Its block's self-attention receives signal(sigma)."""

    def __init__(self, formula: Formula, signal: Callable[[float], float]) -> None:
        super().__init__()
        block = torch.nn.Module()
        block.attn1 = Attention()
        self.blocks = torch.nn.ModuleList([block])
        self.formula, self.signal, self.config, self.calls = formula, signal, {"in_channels": 2}, 0

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: Any = None
    ) -> tuple[torch.Tensor]:
        sigma = float(timestep) / 1000
        self.blocks[0].attn1(hidden_states=torch.full((1, 3, 4), self.signal(sigma)))
        self.calls += 1  # behind the probe: a call that leaves early does not count
        return (self.formula(hidden_states, sigma),)


class ToyPipeline:
    """Euler integration of the denoiser; returns the predictions of all steps, (steps, *shape)."""

    def __init__(self, formula: Formula, signal: Callable[[float], float] = lambda sigma: 1.0 + sigma) -> None:
        self.transformer = ToyDenoiser(formula, signal)
        self.scheduler = FlowMatchEulerDiscreteScheduler()
        self.config = SimpleNamespace(_name_or_path="")
        self.shape: tuple[int, ...] = (1, 2, 4, 4)

    @property
    def components(self) -> dict[str, Any]:
        return {"transformer": self.transformer, "scheduler": self.scheduler}

    def __call__(self, prompt: str = "", num_inference_steps: int = 20, generator: Any = None) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        latents = torch.ones(self.shape)
        predictions = []
        for timestep in self.scheduler.timesteps:
            prediction = self.transformer(latents, timestep)[0]
            predictions.append(prediction)
            latents = self.scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        return torch.stack(predictions)
