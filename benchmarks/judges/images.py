"""Families of pictures: DiT, Stable Diffusion, Flux and Stable Diffusion 3, each with a denoiser of about a million
weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn

from benchmarks.judges.family import Family
from benchmarks.judges.language import Words

NO_CLASS = 1000
"""The label with which DiTPipeline asks for an unconditional prediction."""


@dataclass(frozen=True)
class DiT(Family):
    """Class labels instead of prompts, and both predictions of a step in one call."""

    pipeline_class: type[DiffusionPipeline] = DiTPipeline
    width: int = 64
    layers: int = 5
    side: int = 8

    def denoiser(self, channels: int) -> Any:
        return DiTTransformer2DModel(
            num_attention_heads=self.width // 32,
            attention_head_dim=32,
            in_channels=channels,
            out_channels=channels,
            num_layers=self.layers,
            sample_size=self.side,
            patch_size=1,
        )

    def predict(
        self, denoiser: nn.Module, noised: torch.Tensor, time: torch.Tensor, words: Words, prompts: Sequence[str]
    ) -> Any:
        return denoiser(noised, time, torch.tensor(labels(words, prompts)), return_dict=False)[0]

    def pipeline(self, denoiser: nn.Module, vae: Any, scheduler: Any) -> DiffusionPipeline:
        return self.pipeline_class(transformer=denoiser, vae=vae, scheduler=scheduler)

    def conditions(self, words: Words, prompts: Sequence[str], guidance: float) -> Mapping[str, Any]:
        return {"class_labels": labels(words, prompts), "guidance_scale": guidance}


def labels(words: Words, prompts: Sequence[str]) -> list[int]:
    """The number of each prompt among all that there are."""
    every = words.language.prompts()
    return [every.index(" ".join(words.language.words(prompt))) if prompt else NO_CLASS for prompt in prompts]


@dataclass(frozen=True)
class StableDiffusion(Family):
    """A U-Net over latents, and both predictions of a step in one call."""

    pipeline_class: type[DiffusionPipeline] = StableDiffusionPipeline
    width: int = 64
    widths: tuple[int, ...] = (32, 64)
    side: int = 8

    def denoiser(self, channels: int) -> Any:
        attending = len(self.widths)
        return UNet2DConditionModel(
            sample_size=self.side,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=self.widths,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * attending,
            up_block_types=("CrossAttnUpBlock2D",) * attending,
            attention_head_dim=tuple(width // 16 for width in self.widths),  # diffusers means how many heads
            cross_attention_dim=self.width,
            norm_num_groups=16,
            use_linear_projection=True,
        )

    def predict(
        self, denoiser: nn.Module, noised: torch.Tensor, time: torch.Tensor, words: Words, prompts: Sequence[str]
    ) -> Any:
        return denoiser(noised, time, words(prompts)[0], return_dict=False)[0]

    def pipeline(self, denoiser: nn.Module, vae: Any, scheduler: Any) -> DiffusionPipeline:
        return self.pipeline_class(vae, None, None, denoiser, scheduler, None, None, requires_safety_checker=False)


@dataclass(frozen=True)
class Flux(Family):
    """One prediction for a step: the guidance scale is an input of the denoiser."""

    pipeline_class: type[DiffusionPipeline] = FluxPipeline
    width: int = 64
    hidden: int = 96
    layers: tuple[int, int] = (2, 4)
    most: float = 8.0
    """The largest guidance scale that it was trained on."""
    calls = "the guidance scale is an input, so that each step is one prediction"

    def denoiser(self, channels: int) -> Any:
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * channels,
            num_layers=self.layers[0],
            num_single_layers=self.layers[1],
            attention_head_dim=32,
            num_attention_heads=self.hidden // 32,
            joint_attention_dim=self.width,
            pooled_projection_dim=self.width,
            guidance_embeds=True,
            axes_dims_rope=(8, 12, 12),
        )

    def predict(
        self,
        denoiser: nn.Module,
        noised: torch.Tensor,
        time: torch.Tensor,
        words: Words,
        prompts: Sequence[str],
        guidance: torch.Tensor | None = None,
    ) -> Any:
        count, channels, height, width = noised.shape
        embeds, pooled = words(prompts)
        answer = denoiser(
            hidden_states=FluxPipeline._pack_latents(noised, count, channels, height, width),
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            timestep=time / 1000,
            guidance=torch.ones(count) if guidance is None else guidance,
            img_ids=FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, "cpu", torch.float32),
            txt_ids=torch.zeros(embeds.shape[1], 3),
            return_dict=False,
        )[0]
        return FluxPipeline._unpack_latents(answer, height, width, 1)

    def lesson(
        self,
        learning: Mapping[str, Any],
        averaged: Mapping[str, Any],
        noised: torch.Tensor,
        time: torch.Tensor,
        target: torch.Tensor,
        prompts: Sequence[str],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The guided velocity for half of the batch (model guidance, Tang et al. 2025, arXiv 2502.12154): the sample's
        own, and guidance minus one times how far the averaged model's answer moves with the prompt.
        """
        half = len(prompts) // 2
        guidance = torch.ones(len(prompts))
        guidance[:half] += (self.most - 1) * torch.rand(half)
        both = [*prompts[:half], *[""] * half]
        with torch.no_grad():
            noised2, time2 = torch.cat([noised[:half]] * 2), torch.cat([time[:half]] * 2)
            answers = self.predict(averaged["denoiser"], noised2, time2, averaged["words"], both).float()
        told, untold = answers.chunk(2)
        target = target.clone()
        target[:half] += (guidance[:half, None, None, None] - 1) * (told - untold)
        return self.predict(learning["denoiser"], noised, time, learning["words"], prompts, guidance), target

    def pipeline(self, denoiser: nn.Module, vae: Any, scheduler: Any) -> DiffusionPipeline:
        vae.register_to_config(shift_factor=0.0)  # which these pipelines ask for
        return self.pipeline_class(scheduler, vae, None, None, None, None, denoiser)

    def conditions(self, words: Words, prompts: Sequence[str], guidance: float) -> Mapping[str, Any]:
        embeds, pooled = words(prompts)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "guidance_scale": guidance}


@dataclass(frozen=True)
class StableDiffusion3(Family):
    """Text and picture attend to each other in one sequence; both predictions of a step in one call."""

    pipeline_class: type[DiffusionPipeline] = StableDiffusion3Pipeline
    width: int = 64
    hidden: int = 64
    layers: int = 5
    side: int = 8

    def denoiser(self, channels: int) -> Any:
        return SD3Transformer2DModel(
            sample_size=self.side,
            patch_size=1,
            in_channels=channels,
            out_channels=channels,
            num_layers=self.layers,
            attention_head_dim=32,
            num_attention_heads=self.hidden // 32,
            joint_attention_dim=self.width,
            caption_projection_dim=self.hidden,
            pooled_projection_dim=self.width,
            pos_embed_max_size=self.side,
            qk_norm="rms_norm",
        )

    def predict(
        self, denoiser: nn.Module, noised: torch.Tensor, time: torch.Tensor, words: Words, prompts: Sequence[str]
    ) -> Any:
        embeds, pooled = words(prompts)
        return denoiser(noised, embeds, pooled, time, return_dict=False)[0]

    def pipeline(self, denoiser: nn.Module, vae: Any, scheduler: Any) -> DiffusionPipeline:
        vae.register_to_config(shift_factor=0.0)  # which these pipelines ask for
        return self.pipeline_class(denoiser, scheduler, vae, None, None, None, None, None, None)

    def conditions(self, words: Words, prompts: Sequence[str], guidance: float) -> Mapping[str, Any]:
        found = dict(super().conditions(words, prompts, guidance))
        found["pooled_prompt_embeds"] = words(prompts)[1]
        if guidance > 1:
            found["negative_pooled_prompt_embeds"] = words([""] * len(prompts))[1]
        return found
