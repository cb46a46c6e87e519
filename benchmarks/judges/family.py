"""What differs from one pipeline class to the next: the denoiser, how it is called, how prompts are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import nn

from benchmarks.judges.language import Words


class Family(ABC):
    """A pipeline class of diffusers with a small denoiser."""

    width: int
    """Of the prompts' embeddings."""
    calls = "guidance asks for both predictions of a step in one call"

    @abstractmethod
    def denoiser(self, channels: int) -> Any:
        """An untrained denoiser for latents of so many channels."""

    @abstractmethod
    def predict(
        self, denoiser: nn.Module, noised: torch.Tensor, time: torch.Tensor, words: Words, prompts: Sequence[str]
    ) -> Any:
        """The denoiser's answer, called as the pipeline calls it. An empty prompt means none; times end at 1000."""

    @abstractmethod
    def pipeline(self, denoiser: nn.Module, vae: Any, scheduler: Any) -> DiffusionPipeline:
        """The stock pipeline."""

    def sample(self, drawn: NDArray[np.float32]) -> torch.Tensor:
        """What a judge draws as a sample in [-1, 1] with its channels first: a picture or clip in [0, 1], here."""
        return torch.from_numpy(drawn).movedim(-1, 0).float() * 2 - 1

    def encode(self, vae: Any, samples: torch.Tensor) -> torch.Tensor:
        """Samples in [-1, 1] to latents as the denoiser sees them."""
        latents: torch.Tensor = vae.encode(samples).latent_dist.mode()
        return latents

    def conditions(self, words: Words, prompts: Sequence[str], guidance: float) -> Mapping[str, Any]:
        """The arguments with which the stock pipeline is told these prompts and this guidance."""
        found = {"guidance_scale": guidance, "prompt_embeds": words(prompts)[0]}
        return found | ({"negative_prompt_embeds": words([""] * len(prompts))[0]} if guidance > 1 else {})

    def lesson(
        self,
        learning: Mapping[str, Any],
        averaged: Mapping[str, Any],
        noised: torch.Tensor,
        time: torch.Tensor,
        target: torch.Tensor,
        prompts: Sequence[str],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the denoiser says and what it should say; both mappings hold the modules "denoiser" and "words"."""
        return self.predict(learning["denoiser"], noised, time, learning["words"], prompts), target
