"""Trains judges: `python -m benchmarks.judges.train glyphs waves`, or `--all`.

One after the other, each for a fixed number of updates, from procedurally drawn samples or from pictures that installed
packages ship. A run that is cut short goes on where its last checkpoint was; a judge that is complete is left alone.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.command import add_judges
from benchmarks.judges import Judge
from benchmarks.judges.language import Words
from benchmarks.judges.roster import CANDIDATES, JUDGES
from benchmarks.pocket.training import Learner, in_16_bits, proceed

DROPPED = 0.12
"""Share of the prompts that are left out in training, for guidance."""


class Pool:
    """Encoded samples and their prompts; a few are drawn anew at every update."""

    def __init__(self, judge: Judge, seed: int = 0) -> None:
        self._judge, self._rng = judge, np.random.default_rng(seed)
        self._every = judge.language.trained()
        self.prompts = [str(self._rng.choice(self._every)) for _ in range(judge.training.pool)]
        samples = torch.stack([self._draw(prompt) for prompt in self.prompts])
        self.vae = judge.autoencoder(samples)
        self._latents = torch.cat([self._encode(part) for part in samples.split(64)])

    def batch(self) -> tuple[torch.Tensor, list[str]]:
        """Latents and prompts, some of which are empty."""
        for index in self._rng.integers(len(self.prompts), size=self._judge.training.fresh):
            self.prompts[index] = str(self._rng.choice(self._every))
            self._latents[index] = self._encode(self._draw(self.prompts[index])[None])[0]
        chosen = self._rng.choice(len(self.prompts), self._judge.training.batch, replace=False)
        prompts = ["" if self._rng.uniform() < DROPPED else self.prompts[index] for index in chosen]
        return self._latents[torch.from_numpy(chosen)], prompts

    def _draw(self, prompt: str) -> torch.Tensor:
        """A picture (3, H, W), clip (3, T, H, W) or sound (1, N) in [-1, 1]."""
        return self._judge.family.sample(self._judge.draw(self._rng, self._judge.language.words(prompt)))

    def _encode(self, samples: torch.Tensor) -> torch.Tensor:
        """As the pipeline's denoiser sees them."""
        return self._judge.family.encode(self.vae, samples)


class Trainer:
    """Denoiser and words of a judge, their averages, and its samples; `step` trains on one batch."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.pool = judge, Pool(judge)
        self.words = Words(judge.language, judge.family.width)
        self.denoiser = judge.family.denoiser(self.pool.batch()[0].shape[1]).eval()
        self.learner = Learner(self.denoiser, judge.training.rate, words=self.words)
        self.seconds, self.loss = 0.0, 0.0

    def step(self, index: int, progress: float) -> float:
        """One update; returns the loss. The progress is that of the updates, so that a slow machine trains as well."""
        start = time.process_time()
        latents, prompts = self.pool.batch()
        noised, times, target = self.judge.objective.noised(latents, torch.randn_like(latents))
        with in_16_bits("cpu"), sdpa_kernel(SDPBackend.MATH):
            modules = self.learner.modules, self.learner.averaged
            predicted, target = self.judge.family.lesson(*modules, noised, times, target, prompts)
        loss = (predicted.float() - target).square().mean()
        found = self.learner.update(loss, index / self.judge.training.updates)
        self.loss += (found - self.loss) / min(index + 1, 100)
        self.seconds += time.process_time() - start
        return found

    def compile(self) -> None:
        """Compiles the blocks of a transformer: twice as fast or more. Those of a U-Net take minutes to compile."""
        for module in (self.denoiser, self.learner.averaged["denoiser"]):
            lists = [child for child in module.children() if isinstance(child, torch.nn.ModuleList)]
            for block in [block for blocks in lists for block in blocks]:
                if not any(isinstance(part, torch.nn.Conv2d) for part in block.modules()):
                    block.compile()

    def state(self) -> dict[str, Any]:
        return self.learner.state() | {"seconds": self.seconds, "loss": self.loss}

    def load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state)
        self.seconds, self.loss = state["seconds"], state["loss"]

    def export(self, folder: Path) -> None:
        """Writes the averaged model to the judge's folder."""
        parts = [copy.deepcopy(self.learner.averaged[name]) for name in ("denoiser", "words")]
        self.judge.save(parts[0], copy.deepcopy(self.pool.vae), parts[1])


def train(judge: Judge, out: Path, compiled: bool = False) -> None:
    """Begins or goes on. The checkpoint and the log are in `out`, the model in the judge's folder."""
    if judge.trained():
        print(f"{judge.name} is trained.")
        return
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    options = argparse.Namespace(steps=judge.training.updates, minutes=1e9, checkpoint_minutes=1.0, device="cpu")
    trainer = Trainer(judge)
    if compiled:
        trainer.compile()
    proceed(trainer, out, options)
    judge.finish(minutes=trainer.seconds / 60, loss=trainer.loss)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the judges.")
    add_judges(parser, CANDIDATES, default=())
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--updates", type=int, help="train for longer than the judge's own number of updates")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of transformers: faster")
    parser.add_argument("--out", default="out/judges", help="folder for checkpoints and logs")
    options = parser.parse_args(arguments)
    names = list(JUDGES) if options.all else options.names
    if not names:
        parser.error(f"name one or more of: {', '.join(CANDIDATES)}, or say --all.")
    for name in names:
        judge = CANDIDATES[name]
        longer = replace(judge.training, updates=options.updates or judge.training.updates)
        train(replace(judge, training=longer), Path(options.out) / name, options.compile)


if __name__ == "__main__":
    main()
