"""Trains the pocket video model on procedurally drawn clips: `python -m accel.pocket.train --out DIR --minutes 75`.

Flow matching (v = noise - x0) on the latents of a linear autoencoder, denoiser and text encoder together. Runs on a
CPU in about an hour or on a GPU in minutes; stops by the clock, can be interrupted and resumed at any time, and writes
the averaged weights in diffusers format at every checkpoint, so that a run cut short still leaves a model.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from transformers import UMT5EncoderModel

from accel.pocket.autoencoder import PatchAutoencoder
from accel.pocket.scenes import render, sample_scene
from accel.pocket.text import embed, make_text_encoder, make_tokenizer

SHIFT = 3.0
CAPTION_DROPOUT = 0.1
EMA_DECAY = 0.998


@dataclass(frozen=True)
class Size:
    """A training size: the clips of one batch and from which share of the run on, and how often, it is used."""

    height: int
    width: int
    frames: int
    batch: int
    begin: float
    every: int


SIZES = (
    Size(64, 64, 17, batch=24, begin=0.0, every=1),
    Size(96, 96, 17, batch=10, begin=0.7, every=5),
    Size(128, 128, 33, batch=3, begin=0.7, every=6),
)


class Clips:
    """A pool of encoded clips of one size; a few are drawn anew at every step, so none is seen often."""

    def __init__(self, autoencoder: PatchAutoencoder, size: Size, count: int, seed: int) -> None:
        self._autoencoder, self._size = autoencoder, size
        self._rng = np.random.default_rng(seed)
        drawn = [self._draw() for _ in range(count)]
        self._latents = torch.stack([latents for latents, _ in drawn])
        self._captions = [caption for _, caption in drawn]

    def batch(self, fresh: int = 2) -> tuple[torch.Tensor, list[str]]:
        """Latents (B, C, T, H, W) and captions, some of them dropped; replaces `fresh` clips of the pool."""
        for index in self._rng.integers(len(self._captions), size=fresh):
            self._latents[index], self._captions[index] = self._draw()
        chosen = self._rng.permutation(len(self._captions))[: self._size.batch]
        captions = ["" if self._rng.uniform() < CAPTION_DROPOUT else self._captions[index] for index in chosen]
        return self._latents[torch.from_numpy(chosen)], captions

    def _draw(self) -> tuple[torch.Tensor, str]:
        scene = sample_scene(self._rng)
        video = torch.from_numpy(render(scene, self._size.height, self._size.width, self._size.frames))
        encoded = self._autoencoder.encode(video.permute(3, 0, 1, 2)[None] * 2 - 1).latent_dist.mode()
        return self._autoencoder.normalise(encoded)[0], str(scene.caption)


class Trainer:
    """Models, optimisers and averaged weights; `step` trains on one batch."""

    def __init__(self, autoencoder: PatchAutoencoder, width: int, layers: int, rate: float, device: str) -> None:
        self.tokenizer = make_tokenizer()
        self.text = make_text_encoder(len(self.tokenizer)).to(device)
        self.denoiser = make_denoiser(autoencoder.config.z_dim, width, layers).to(device)
        self.averaged = copy.deepcopy(self.denoiser), copy.deepcopy(self.text)
        hidden = [p for p in self.denoiser.blocks.parameters() if p.ndim == 2]
        chosen = {id(parameter) for parameter in hidden}
        others = [p for m in (self.denoiser, self.text) for p in m.parameters() if id(p) not in chosen]
        # Muon orthogonalises the update of matrices; with its step matched to AdamW's, one rate serves both.
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(hidden, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self._rate, self._device = rate, device

    def step(self, latents: torch.Tensor, captions: list[str], progress: float) -> float:
        """One update; returns the loss. The rate warms up, stays, and falls linearly over the last 45 %."""
        rate = self._rate * min(progress / 0.02 + 0.02, 1.0, max((1.0 - progress) / 0.45, 0.02))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        latents = latents.to(self._device)
        noise, sigma = torch.randn_like(latents), sample_sigma(len(latents)).to(self._device)
        mix = sigma.view(-1, 1, 1, 1, 1)
        with torch.autocast(self._device, torch.bfloat16):
            words = embed(self.tokenizer, self.text, captions)
            predicted = self.denoiser((1 - mix) * latents + mix * noise, sigma * 1000, words, return_dict=False)[0]
        loss = (predicted.float() - (noise - latents)).square().mean()
        loss.backward()
        parameters = [p for m in (self.denoiser, self.text) for p in m.parameters()]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        for average, model in zip(self.averaged, (self.denoiser, self.text), strict=True):
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - EMA_DECAY)

    def start_from(self, folder: Path) -> None:
        """Takes the weights of an exported model, such as the packaged one; the optimisers begin anew."""
        denoiser = WanTransformer3DModel.from_pretrained(folder / "transformer").state_dict()
        text = UMT5EncoderModel.from_pretrained(folder / "text_encoder").state_dict()
        for model, average, values in zip((self.denoiser, self.text), self.averaged, (denoiser, text), strict=True):
            model.load_state_dict(values)
            average.load_state_dict(values)

    def state(self) -> dict[str, Any]:
        modules = {"denoiser": self.denoiser, "text": self.text, "ema": self.averaged[0], "ema_text": self.averaged[1]}
        return {name: module.state_dict() for name, module in modules.items()} | {
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers]
        }

    def load(self, state: dict[str, Any]) -> None:
        self.denoiser.load_state_dict(state["denoiser"])
        self.text.load_state_dict(state["text"])
        self.averaged[0].load_state_dict(state["ema"])
        self.averaged[1].load_state_dict(state["ema_text"])
        for optimiser, values in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(values)


def make_denoiser(channels: int, width: int, layers: int) -> WanTransformer3DModel:
    """A small Wan transformer with one token per latent pixel; attention heads of 64."""
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=max(width // 64, 1),
        attention_head_dim=min(width, 64),
        in_channels=channels,
        out_channels=channels,
        text_dim=64,
        freq_dim=128,
        ffn_dim=4 * width,
        num_layers=layers,
        rope_max_seq_len=64,
    )


def sample_sigma(count: int) -> torch.Tensor:
    """Noise levels of a batch: mostly logit-normal, some uniform, then shifted as the sampler's schedule is."""
    normal = torch.sigmoid(torch.randn(count))
    t = torch.where(torch.rand(count) < 0.8, normal, torch.rand(count))
    return SHIFT * t / (1 + (SHIFT - 1) * t)


def export(trainer: Trainer, autoencoder: PatchAutoencoder, folder: Path) -> None:
    """Writes the averaged model as a diffusers pipeline folder."""
    trainer.averaged[0].save_pretrained(folder / "transformer")
    trainer.averaged[1].save_pretrained(folder / "text_encoder")
    trainer.tokenizer.save_pretrained(folder / "tokenizer")
    autoencoder.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "WanPipeline",
        "boundary_ratio": None,
        "expand_timesteps": False,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["accel.pocket.autoencoder", "PatchAutoencoder"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def fit_autoencoder(clips: int, channels: int) -> PatchAutoencoder:
    rng = np.random.default_rng(1)
    videos = np.stack([render(sample_scene(rng)) for _ in range(clips)])
    samples = torch.from_numpy(videos).permute(0, 4, 1, 2, 3) * 2 - 1
    fitted: PatchAutoencoder = PatchAutoencoder.fit(samples, z_dim=channels)
    return fitted


def train(options: argparse.Namespace) -> None:
    """Trains until `options.minutes` of training time have passed, over as many invocations as it takes."""
    out, checkpoint = Path(options.out), Path(options.out) / "checkpoint.pt"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    known = next((Path(folder) for folder in (out, options.start) if folder and (Path(folder) / "vae").exists()), None)
    if known is not None:
        autoencoder = PatchAutoencoder.from_pretrained(known / "vae")
    else:
        autoencoder = fit_autoencoder(options.pool // 4, options.channels)
    trainer = Trainer(autoencoder, options.width, options.layers, options.rate, options.device)
    step, elapsed = 0, 0.0
    if options.start and not checkpoint.exists():
        trainer.start_from(Path(options.start))
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=options.device)
        trainer.load(saved["trainer"])
        step, elapsed = saved["step"], saved["elapsed"]
    if options.compile:
        trainer.denoiser.compile_repeated_blocks()
    pools: dict[Size, Clips] = {}
    budget, written, losses = options.minutes * 60, time.monotonic(), [0.0]
    while elapsed < budget and step < options.steps:
        start, progress = time.monotonic(), elapsed / budget
        size = size_at(step, progress, SIZES)
        if size not in pools:
            pools[size] = Clips(autoencoder, size, max(options.pool * size.batch // SIZES[0].batch, 8), seed=step)
        losses.append(trainer.step(*pools[size].batch(), progress))
        step, elapsed = step + 1, elapsed + min(time.monotonic() - start, 60.0)
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"The loss is {losses[-1]} at step {step}; resume with a lower --rate.")
        if step % 50 == 0:
            log(out / "training_log.jsonl", step=step, minutes=elapsed / 60, loss=float(np.mean(losses[-50:])))
        if time.monotonic() - written > options.checkpoint_minutes * 60:
            save(out, trainer, autoencoder, step, elapsed)
            written = time.monotonic()
    save(out, trainer, autoencoder, step, elapsed)


def size_at(step: int, progress: float, sizes: Iterable[Size]) -> Size:
    """The size of this step: the last in the list whose turn it is."""
    return [size for size in sizes if progress >= size.begin and step % size.every == 0][-1]


def save(out: Path, trainer: Trainer, autoencoder: PatchAutoencoder, step: int, elapsed: float) -> None:
    """Checkpoint and exported model; the checkpoint appears whole or not at all."""
    export(trainer, autoencoder, out)
    partial = out / "checkpoint.part"
    torch.save({"trainer": trainer.state(), "step": step, "elapsed": elapsed}, partial)
    partial.replace(out / "checkpoint.pt")


def log(path: Path, **values: float) -> None:
    line = json.dumps({key: round(value, 4) for key, value in values.items()})
    print(line, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the pocket video model.")
    parser.add_argument("--out", required=True, help="folder for the model, its log and its checkpoint")
    parser.add_argument("--start", help="folder of an exported model to go on from, such as accel/pocket/video")
    parser.add_argument("--minutes", type=float, default=75.0, help="training time in all, resumed runs included")
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many steps")
    parser.add_argument("--width", type=int, default=128, help="width of the transformer, a multiple of 64")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--channels", type=int, default=24, help="latent channels")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--pool", type=int, default=2000, help="clips kept in memory")
    parser.add_argument("--checkpoint-minutes", type=float, default=4.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile the blocks: twice as fast on a CPU")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
