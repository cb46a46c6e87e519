"""Trains the second stage of the pocket decoder: `python -m benchmarks.pocket.train_decoder --out DIR --minutes 5`.

The encoder and the latents stay as they are, so the denoisers need no training. Half of each batch are drawn clips, of
which all pixels are known, and the steps across the borders of patches count once more. The other half are clips that
the pocket model has made, whose latents are not quite those of any drawn clip: there a step across a border shall not
be larger than those beside it, and apart from that the pixels stay.
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
from accel.pocket.scenes import prompts, render, sample_scene
from benchmarks.pocket.training import begin, parser_of, proceed

MADE_IN = 12
"""Steps in which the model makes its clips."""
SEAM = 0.5
"""What a step across a border that is too large costs, beside a pixel that was changed."""


class DecoderTraining:
    """The decoder with a second stage, and pools of clips; `step` trains on one batch."""

    def __init__(self, pipe: WanPocketPipeline, width: int, rate: float, pool: int, batch: int, seed: int) -> None:
        self._batch = batch
        self.autoencoder, self._linear = with_second_stage(pipe.vae, width), with_second_stage(pipe.vae, 0)
        self._stage: torch.nn.Module = self.autoencoder.second_stage
        self._optimiser = torch.optim.AdamW(self._stage.parameters(), lr=rate, betas=(0.9, 0.98))
        self._rate = rate
        self._rng = np.random.default_rng(seed)
        self._clips = [self._draw() for _ in range(pool)]
        self._made = self._make(pipe, pool // 4, seed)

    def step(self, index: int, progress: float) -> float:
        """One update; returns the loss."""
        for replaced in self._rng.integers(len(self._clips), size=2):
            self._clips[replaced] = self._draw()
        chosen = self._rng.permutation(len(self._clips))[: self._batch // 2]
        clips = torch.from_numpy(np.stack([self._clips[at] for at in chosen])).float() / 127.5 - 1
        made = self._made[torch.from_numpy(self._rng.permutation(len(self._made))[: self._batch // 2])]
        return self.update(clips.permute(0, 4, 1, 2, 3), made, progress)

    def update(self, clips: torch.Tensor, made: torch.Tensor, progress: float) -> float:
        """One update on drawn clips (batch, 3, frames, height, width) in [-1, 1] and on latents that were made."""
        with torch.no_grad():
            latents = torch.cat([self.autoencoder.encode(clips).latent_dist.mode(), made])
            before = self._linear.decode(made).sample
        drawn, after = self.autoencoder.decode_freely(latents).split([len(clips), len(made)])
        side = self.autoencoder.spatial
        loss = (drawn - clips).abs().mean() + steps(drawn - clips, side)[0].abs().mean()
        loss = loss + (after - before).abs().mean() + SEAM * seams(after, side)
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * min(1.0, max(2.0 * (1.0 - progress), 0.01))
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        return {"stage": self._stage.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._stage.load_state_dict(state["stage"])
        self._optimiser.load_state_dict(state["optimiser"])

    def export(self, folder: Path) -> None:
        """Writes the autoencoder as it is now."""
        self.autoencoder.save_pretrained(folder / "vae")

    def _draw(self) -> Any:
        return (render(sample_scene(self._rng)) * 255).round().astype(np.uint8)

    def _make(self, pipe: WanPocketPipeline, count: int, seed: int) -> torch.Tensor:
        """Latents of clips that the model makes, as they are decoded."""
        pipe.set_progress_bar_config(disable=True)
        captions = prompts(count, seed)
        chance = torch.Generator().manual_seed(seed)
        parts = [
            pipe(captions[at : at + 16], num_inference_steps=MADE_IN, generator=chance, output_type="latent").frames
            for at in range(0, count, 16)
        ]
        return self.autoencoder.restore(torch.cat(parts))


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


def seams(video: torch.Tensor, side: int) -> torch.Tensor:
    """By how much steps across borders are larger than those beside them, on average."""
    across, beside = steps(video, side)
    return (across.abs() - beside).clamp_min(0).mean()


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("Train the second stage of the pocket decoder.", minutes=5.0, rate=2e-3)
    parser.add_argument("--width", type=int, default=96, help="width of the second stage")
    parser.add_argument("--batch", type=int, default=8, help="clips of a step")
    parser.add_argument("--pool", type=int, default=240, help="clips kept in memory")
    options = parser.parse_args(arguments)
    out = begin(options)
    sizes = options.width, options.rate, options.pool, options.batch
    proceed(DecoderTraining(load("video"), *sizes, options.seed), out, options)


if __name__ == "__main__":
    main()
