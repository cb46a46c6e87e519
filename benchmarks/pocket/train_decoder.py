"""Trains the second stage of the pocket decoder: `python -m benchmarks.pocket.train_decoder --out DIR --minutes 4`.

The encoder and the latents stay as they are, so the denoisers need no training. What is decoded is compared with the
drawn clip, pixel by pixel and once more in the steps across the borders of patches, where an error is a seam. Half of
the latents are what the denoiser makes of noised ones: those of a run are not quite those of any clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel.pocket import load
from accel.pocket.autoencoder import PatchAutoencoder
from accel.pocket.pipeline import WanPocketPipeline
from accel.pocket.scenes import render, sample_scene
from accel.pocket.text import embed
from benchmarks.pocket.training import begin, parser_of, proceed

NOISE = 0.5
"""The most noise that latents are denoised from."""


class DecoderTraining:
    """The decoder with a second stage, and a pool of clips; `step` trains on one batch."""

    def __init__(self, pipe: WanPocketPipeline, width: int, rate: float, pool: int, batch: int, seed: int) -> None:
        self._pipe, self._batch = pipe, batch
        pipe.transformer.requires_grad_(False)
        self.autoencoder = with_second_stage(pipe.vae, width)
        self._stage: torch.nn.Module = self.autoencoder.second_stage
        self._optimiser = torch.optim.AdamW(self._stage.parameters(), lr=rate, betas=(0.9, 0.98))
        self._rate = rate
        self._rng = np.random.default_rng(seed)
        self._clips = [self._draw() for _ in range(pool)]

    def step(self, index: int, progress: float) -> float:
        """One update; returns the loss."""
        for replaced in self._rng.integers(len(self._clips), size=2):
            self._clips[replaced] = self._draw()
        chosen = [self._clips[at] for at in self._rng.permutation(len(self._clips))[: self._batch]]
        clips = torch.from_numpy(np.stack([clip for clip, _ in chosen])).float() / 127.5 - 1
        return self.update(clips.permute(0, 4, 1, 2, 3), [caption for _, caption in chosen], progress)

    def update(self, clips: torch.Tensor, captions: list[str], progress: float) -> float:
        """One update on clips (batch, 3, frames, height, width) in [-1, 1]."""
        with torch.no_grad():
            latents = self._partly_made(self.autoencoder.encode(clips).latent_dist.mode(), captions)
        error = self.autoencoder.decode(latents).sample - clips
        loss = error.abs().mean() + steps(error, self.autoencoder.spatial)[0].abs().mean()
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * min(1.0, max(2.0 * (1.0 - progress), 0.01))
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    def _partly_made(self, latents: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """The latter half as the denoiser makes them in one step from latents with some noise."""
        half = len(latents) // 2
        sigma = NOISE * torch.rand(len(latents) - half)
        share = sigma.view(-1, 1, 1, 1, 1)
        clean = self.autoencoder.normalise(latents[half:])
        noised = torch.lerp(clean, torch.randn_like(clean), share)
        words = embed(self._pipe.tokenizer, self._pipe.text_encoder, captions[half:])
        velocity = self._pipe.transformer(noised, sigma * 1000, words, return_dict=False)[0]
        return torch.cat([latents[:half], self.autoencoder.restore(noised - share * velocity)])

    def state(self) -> dict[str, Any]:
        return {"stage": self._stage.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._stage.load_state_dict(state["stage"])
        self._optimiser.load_state_dict(state["optimiser"])

    def export(self, folder: Path) -> None:
        """Writes the autoencoder as it is now."""
        self.autoencoder.save_pretrained(folder / "vae")

    def _draw(self) -> tuple[Any, str]:
        scene = sample_scene(self._rng)
        return (render(scene) * 255).round().astype(np.uint8), str(scene.caption)


def with_second_stage(linear: PatchAutoencoder, width: int) -> PatchAutoencoder:
    """The same autoencoder with a second stage of this width, which adds nothing yet."""
    config = linear.config
    fresh = PatchAutoencoder(config.z_dim, config.latents_mean, config.latents_std, context=width)
    fresh.mean.data.copy_(linear.mean)
    fresh.basis.data.copy_(linear.basis)
    return fresh


def steps(video: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The steps from pixel to pixel across the borders of patches, one after the other, and the mean size of those
    beside each."""
    across, beside = [], []
    for dimension in (-1, -2):
        each = video.diff(dim=dimension).movedim(dimension, -1)
        across.append(each[..., side - 1 :: side].flatten())
        before, after = each[..., side - 2 : -1 : side], each[..., side::side]
        beside.append(((before.abs() + after.abs()) / 2).flatten())
    return torch.cat(across), torch.cat(beside)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("Train the second stage of the pocket decoder.", minutes=4.0, rate=2e-3)
    parser.add_argument("--width", type=int, default=64, help="width of the second stage")
    parser.add_argument("--batch", type=int, default=8, help="clips of a step")
    parser.add_argument("--pool", type=int, default=400, help="clips kept in memory")
    options = parser.parse_args(arguments)
    out = begin(options)
    sizes = options.width, options.rate, options.pool, options.batch
    proceed(DecoderTraining(load("video"), *sizes, options.seed), out, options)


if __name__ == "__main__":
    main()
