"""Trains the pocket image model on single frames of the scenes: `python -m benchmarks.pocket.train_image --out DIR`.

Noise prediction with the schedule of Stable Diffusion on the latents of a linear autoencoder, U-Net and text encoder
together. The captions are those of the clips, and their motion means nothing in a single picture. It stops by the
clock and resumes as the other training scripts do.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from accel.pocket.autoencoder import PicturePatchAutoencoder
from accel.pocket.image_pipeline import StableDiffusionPocketPipeline
from accel.pocket.scenes import render, sample_scene
from accel.pocket.text import MAX_TOKENS, make_text_encoder, make_tokenizer
from benchmarks.pocket.training import Learner, begin, in_16_bits, parser_of, proceed

CAPTION_DROPOUT = 0.1
SIDE = 64
BATCH = 32


class Pictures:
    """A pool of encoded pictures; some are drawn anew at every step, so none is seen often."""

    def __init__(self, autoencoder: PicturePatchAutoencoder, count: int, seed: int) -> None:
        self._autoencoder = autoencoder
        self._rng = np.random.default_rng(seed)
        self._latents, self._captions = self._draw(count)

    def batch(self, size: int = BATCH, fresh: int = 8) -> tuple[torch.Tensor, list[str]]:
        """Latents (B, C, H, W) and captions, some of them dropped; replaces `fresh` pictures of the pool."""
        if fresh:
            places = self._rng.integers(len(self._captions), size=fresh)
            self._latents[torch.from_numpy(places)], captions = self._draw(fresh)
            for place, caption in zip(places, captions, strict=True):
                self._captions[place] = caption
        chosen = self._rng.integers(len(self._captions), size=size)
        captions = ["" if self._rng.uniform() < CAPTION_DROPOUT else self._captions[index] for index in chosen]
        return self._latents[torch.from_numpy(chosen)], captions

    def _draw(self, count: int) -> tuple[torch.Tensor, list[str]]:
        pictures, captions = draw(self._rng, count)
        return self._autoencoder.encode(pictures).latent_dist.mode(), captions


class Trainer:
    """Denoiser, text encoder, their averages and a pool of pictures; `step` trains on one batch."""

    def __init__(
        self,
        autoencoder: PicturePatchAutoencoder,
        widths: tuple[int, ...],
        rate: float,
        device: str,
        pool: int = 16000,
        seed: int = 0,
    ) -> None:
        self.autoencoder, self.tokenizer, self.scheduler = autoencoder, make_tokenizer(), make_scheduler()
        self.text = make_text_encoder(len(self.tokenizer)).to(device)
        self.denoiser = make_denoiser(autoencoder.config.latent_channels, widths).to(device)
        self.learner = Learner(self.denoiser, rate, text=self.text)
        self._device = device
        self._pictures = Pictures(autoencoder, pool, seed)

    def step(self, index: int, progress: float) -> float:
        return self.update(*self._pictures.batch(), progress)

    def update(self, latents: torch.Tensor, captions: list[str], progress: float) -> float:
        latents = latents.to(self._device)
        noise, timesteps = torch.randn_like(latents), sample_timesteps(len(latents)).to(self._device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        with in_16_bits(self._device):
            words = self.text(self._tokens(captions))[0]
            predicted = self.denoiser(noisy, timesteps, words, return_dict=False)[0]
        return self.learner.update((predicted.float() - noise).square().mean(), progress)

    def _tokens(self, captions: list[str]) -> torch.Tensor:
        # As StableDiffusionPipeline asks: filled up to full length, and without a mask.
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        )
        ids: torch.Tensor = tokens.input_ids.to(self._device)
        return ids

    def state(self) -> dict[str, Any]:
        return self.learner.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state)

    def export(self, folder: Path) -> None:
        """Writes the averaged model as a diffusers pipeline folder, the denoiser in float16."""
        denoiser = copy.deepcopy(self.learner.averaged["denoiser"]).half()
        text = copy.deepcopy(self.learner.averaged["text"])
        parts = (self.autoencoder, text, self.tokenizer, denoiser, self.scheduler)
        StableDiffusionPocketPipeline(*parts).save_pretrained(folder)


def draw(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[str]]:
    """Pictures (count, 3, height, width) in [-1, 1] of random scenes at half time, and their captions."""
    scenes = [sample_scene(rng) for _ in range(count)]
    pictures = np.concatenate([render(scene, SIDE, SIDE, frames=1) for scene in scenes])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) * 2 - 1, [str(scene.caption) for scene in scenes]


def make_denoiser(channels: int, widths: tuple[int, ...]) -> UNet2DConditionModel:
    """A small U-Net over latents of 16x16, with attention at all scales but the coarsest; attention heads of 32."""
    attending = len(widths) - 1
    return UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * attending + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attending,
        attention_head_dim=tuple(max(width // 32, 1) for width in widths),  # diffusers means how many heads
        cross_attention_dim=64,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def make_scheduler() -> DDIMScheduler:
    """The schedule of Stable Diffusion, but ending at twice the noise: a background's level is a strong signal."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.016,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def sample_timesteps(count: int, training_steps: int = 1000) -> torch.Tensor:
    """Timesteps of a batch: three quarters around those at which shapes are decided, the others uniform."""
    decisive = torch.sigmoid(torch.randn(count) + 0.5)
    share = torch.where(torch.rand(count) < 0.75, decisive, torch.rand(count))
    return (share * training_steps).long().clamp(max=training_steps - 1)


def train(options: argparse.Namespace) -> None:
    """Begins a run or takes one up, and trains."""
    out = begin(options)
    if (out / "vae").exists():
        autoencoder = PicturePatchAutoencoder.from_pretrained(out / "vae")
    else:
        pictures, _ = draw(np.random.default_rng(1), options.pool // 16)
        autoencoder = PicturePatchAutoencoder.fit(pictures, options.channels)
    trainer = Trainer(autoencoder, tuple(options.widths), options.rate, options.device, options.pool, options.seed)
    if options.compile:
        trainer.denoiser.compile_repeated_blocks()
    proceed(trainer, out, options)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("Train the pocket image model.", minutes=40.0, rate=2e-3)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128], help="of each scale, multiples of 32")
    parser.add_argument("--channels", type=int, default=8, help="latent channels")
    parser.add_argument("--pool", type=int, default=16000, help="pictures kept in memory")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
