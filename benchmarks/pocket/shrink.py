"""Trains a smaller sibling of the pocket video model: `python -m benchmarks.pocket.shrink --out DIR --minutes 15`.

It has the teacher's latents, schedule and text encoder and learns the teacher's unguided velocity on noised drawn
clips, a tenth of them without their captions, so that classifier-free guidance works with it. The teacher's velocity is
the mean of the noisy targets of flow matching, as far as the teacher knows it: easier to learn than those. It is for
model switching: the layout that forms at high noise needs little of a network (T-Stitch, arXiv 2402.14167).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from accel.pocket import load
from accel.pocket.pipeline import WanPocketPipeline, write_sibling
from accel.pocket.text import embed
from benchmarks.pocket.train_video import SIZES, Clips, make_denoiser, sample_sigma
from benchmarks.pocket.training import Learner, begin, in_16_bits, parser_of, proceed


class Shrinking:
    """Teacher, small student and a pool of clips; `step` trains on one batch."""

    def __init__(
        self, teacher: WanPocketPipeline, width: int, layers: int, rate: float, pool: int, seed: int, device: str
    ) -> None:
        self.teacher = teacher.to(device)
        teacher.transformer.requires_grad_(False)
        self.student = make_denoiser(teacher.transformer.config.in_channels, width, layers).to(device)
        self.learner = Learner(self.student, rate)
        self._clips = Clips(teacher.vae, SIZES[0], pool, seed)
        self._device = device

    def step(self, index: int, progress: float) -> float:
        """One update; returns the loss."""
        return self.update(*self._clips.batch(), progress)

    def update(self, latents: torch.Tensor, captions: list[str], progress: float) -> float:
        latents = latents.to(self._device)
        sigma = sample_sigma(len(latents)).to(self._device)
        noised = torch.lerp(latents, torch.randn_like(latents), sigma.view(-1, 1, 1, 1, 1))
        with in_16_bits(self._device):
            with torch.no_grad():
                words = embed(self.teacher.tokenizer, self.teacher.text_encoder, captions)
                target = self.teacher.transformer(noised, sigma * 1000, words, return_dict=False)[0]
            predicted = self.student(noised, sigma * 1000, words, return_dict=False)[0]
        return self.learner.update((predicted.float() - target.float()).square().mean(), progress)

    def state(self) -> dict[str, Any]:
        return self.learner.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state)

    def export(self, folder: Path) -> None:
        """Writes the averaged weights; the other components and the defaults of a call are the teacher's."""
        write_sibling(folder, self.learner.averaged["denoiser"])


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("Train a smaller sibling of the pocket video model.", minutes=15.0, rate=2e-3)
    parser.add_argument("--width", type=int, default=64, help="width of the transformer, a multiple of 64")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--pool", type=int, default=2000, help="clips kept in memory")
    options = parser.parse_args(arguments)
    out = begin(options)
    sizes = options.width, options.layers
    run = Shrinking(load("video"), *sizes, options.rate, options.pool, options.seed, options.device)
    if options.compile:
        run.student.compile_repeated_blocks()
        run.teacher.transformer.compile_repeated_blocks()
    proceed(run, out, options)


if __name__ == "__main__":
    main()
