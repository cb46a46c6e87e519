"""Families of clips: Wan, CogVideoX and AnimateDiff, each with a denoiser of about a million weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DiffusionPipeline,
    UNetMotionModel,
    WanPipeline,
    WanTransformer3DModel,
)
from einops import rearrange
from torch import nn

from benchmarks.judges.family import Family
from benchmarks.judges.language import Words


@dataclass(frozen=True)
class Wan(Family):
    """Two calls for a step, with the prompt and without."""

    calls = "guidance asks for the two predictions of a step one after the other"
    width: int = 64
    hidden: int = 64
    layers: int = 5

    def denoiser(self, channels: int) -> Any:
        return WanTransformer3DModel(
            patch_size=(1, 1, 1),
            num_attention_heads=self.hidden // 32,
            attention_head_dim=32,
            in_channels=channels,
            out_channels=channels,
            text_dim=self.width,
            freq_dim=128,
            ffn_dim=4 * self.hidden,
            num_layers=self.layers,
            rope_max_seq_len=32,
        )

    def predict(
        self, denoiser: nn.Module, noised: torch.Tensor, time: torch.Tensor, words: Words, prompts: Sequence[str]
    ) -> Any:
        return denoiser(noised, time, words(prompts)[0], return_dict=False)[0]

    def encode(self, vae: Any, samples: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = vae.normalise(super().encode(vae, samples))
        return latents

    def pipeline(self, denoiser: nn.Module, vae: Any, scheduler: Any) -> DiffusionPipeline:
        return WanPipeline(None, None, vae, scheduler, denoiser)


@dataclass(frozen=True)
class CogVideoX(Family):
    """Text and clip attend to each other in one sequence; both predictions of a step in one call.

    The pipeline scales all latents by one number, so its autoencoder must be one that whitens nothing.
    """

    width: int = 64
    hidden: int = 64
    layers: int = 5
    side: int = 4
    frames: int = 4
    words: int = 3

    def denoiser(self, channels: int) -> Any:
        return CogVideoXTransformer3DModel(
            num_attention_heads=self.hidden // 32,
            attention_head_dim=32,
            in_channels=channels,
            out_channels=channels,
            time_embed_dim=self.hidden,
            text_embed_dim=self.width,
            num_layers=self.layers,
            sample_width=self.side,
            sample_height=self.side,
            sample_frames=4 * self.frames - 3,
            patch_size=1,
            max_text_seq_length=self.words,
            use_rotary_positional_embeddings=True,
        )

    def predict(
        self, denoiser: nn.Module, noised: torch.Tensor, time: torch.Tensor, words: Words, prompts: Sequence[str]
    ) -> Any:
        clips = rearrange(noised, "b c t h w -> b t c h w")
        rotary = CogVideoXPipeline._prepare_rotary_positional_embeddings(
            _Rotary(denoiser), 8 * clips.shape[3], 8 * clips.shape[4], clips.shape[1], torch.device("cpu")
        )
        answer = denoiser(clips, words(prompts)[0], time, image_rotary_emb=rotary, return_dict=False)[0]
        return rearrange(answer, "b t c h w -> b c t h w")

    def encode(self, vae: Any, samples: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = vae.normalise(super().encode(vae, samples))
        return latents

    def pipeline(self, denoiser: nn.Module, vae: Any, scheduler: Any) -> DiffusionPipeline:
        deviation = vae.config.latents_std[0]
        vae.register_to_config(
            block_out_channels=(3, 12, 48, 192), temporal_compression_ratio=4, scaling_factor=1 / deviation
        )
        return CogVideoXPipeline(None, None, vae, denoiser, scheduler)


class _Rotary:
    """What the pipeline's method for positions asks of the pipeline."""

    vae_scale_factor_spatial = 8

    def __init__(self, denoiser: nn.Module) -> None:
        self.transformer = denoiser


@dataclass(frozen=True)
class AnimateDiff(Family):
    """A U-Net for pictures with layers that attend over time between; both predictions of a step in one call."""

    width: int = 64
    widths: tuple[int, ...] = (16, 32)
    side: int = 8
    frames: int = 8

    def denoiser(self, channels: int) -> Any:
        scales = len(self.widths)
        return UNetMotionModel(
            sample_size=self.side,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=self.widths,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockMotion",) * scales,
            up_block_types=("CrossAttnUpBlockMotion",) * scales,
            cross_attention_dim=self.width,
            norm_num_groups=8,
            motion_max_seq_length=self.frames,
            num_attention_heads=tuple(width // 16 for width in self.widths),
            motion_num_attention_heads=tuple(width // 16 for width in self.widths),
            use_linear_projection=True,
        )

    def predict(
        self, denoiser: nn.Module, noised: torch.Tensor, time: torch.Tensor, words: Words, prompts: Sequence[str]
    ) -> Any:
        embeds = words(prompts)[0].repeat_interleave(noised.shape[2], dim=0)
        return denoiser(noised, time, embeds, return_dict=False)[0]

    def encode(self, vae: Any, samples: torch.Tensor) -> torch.Tensor:
        latents = super().encode(vae, rearrange(samples, "b c t h w -> (b t) c h w"))
        return rearrange(latents, "(b t) c h w -> b c t h w", b=len(samples))

    def pipeline(self, denoiser: nn.Module, vae: Any, scheduler: Any) -> DiffusionPipeline:
        return AnimateDiffPipeline(vae, None, None, denoiser, None, scheduler)
