"""The family of sounds: Stable Audio, with a denoiser of about a million weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableAudioDiTModel, StableAudioPipeline, StableAudioProjectionModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from numpy.typing import NDArray
from torch import nn

from benchmarks.judges.family import Family
from benchmarks.judges.language import Words


@dataclass(frozen=True)
class StableAudio(Family):
    """Both predictions of a step in one call, in noise levels as EDM has them.

    The pipeline also tells its denoiser where a sound begins and ends, in seconds; here all are equally long, and what
    it tells is zero.
    """

    width: int = 64
    hidden: int = 128
    layers: int = 4
    length: int = 96

    def denoiser(self, channels: int) -> Any:
        return StableAudioDiTModel(
            sample_size=self.length,
            in_channels=channels,
            num_layers=self.layers,
            attention_head_dim=32,
            num_attention_heads=self.hidden // 32,
            num_key_value_attention_heads=self.hidden // 32,
            out_channels=channels,
            cross_attention_dim=self.hidden,
            time_proj_dim=64,
            global_states_input_dim=2 * self.width,
            cross_attention_input_dim=self.width,
        )

    def predict(
        self, denoiser: nn.Module, noised: torch.Tensor, time: torch.Tensor, words: Words, prompts: Sequence[str]
    ) -> Any:
        embeds = words(prompts)[0]
        begin_and_end = embeds.new_zeros(len(prompts), 2, self.width)
        return denoiser(
            noised,
            time,
            encoder_hidden_states=torch.cat([embeds, begin_and_end], dim=1),
            global_hidden_states=begin_and_end.flatten(1)[:, None],
            rotary_embedding=get_1d_rotary_pos_embed(
                16, noised.shape[2] + 1, use_real=True, repeat_interleave_real=False
            ),
            return_dict=False,
        )[0]

    def pipeline(self, denoiser: nn.Module, vae: Any, scheduler: Any) -> DiffusionPipeline:
        seconds = StableAudioProjectionModel(self.width, self.width, 0, 1)
        for parameter in seconds.parameters():
            nn.init.zeros_(parameter)
        return StableAudioPipeline(vae, None, seconds, None, denoiser, scheduler)

    def sample(self, drawn: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(drawn).movedim(-1, 0).float()
