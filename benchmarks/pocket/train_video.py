"""Trains the pocket video model on drawn clips: `python -m benchmarks.pocket.train_video --out DIR --minutes 75`.

Flow matching (v = noise - x0) on the latents of a linear autoencoder, denoiser and text encoder together. All around
the captioned object is grey, so an error in colour is one in its shape, which is what the model learns last: it counts
extra, and the shapes and backgrounds that are hardest are drawn more often. Runs on a CPU in about an hour or on a GPU
in minutes; stops by the clock, can be interrupted and resumed at any time, and writes the averaged weights in diffusers
format at every checkpoint, so that a run cut short still leaves a model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from transformers import UMT5EncoderModel

from accel.pocket.autoencoder import PatchAutoencoder
from accel.pocket.scenes import Caption, captions, render, sample_scene
from accel.pocket.text import embed, make_text_encoder, make_tokenizer
from benchmarks.pocket.training import SHIFT, Learner, begin, in_16_bits, parser_of, proceed, shifted

CAPTION_DROPOUT = 0.1
COLOUR_WEIGHT = 0.5
SHAPE_ODDS = {"circle": 0.25, "square": 0.15, "triangle": 0.2, "cross": 0.4}
BACKGROUND_ODDS = {"dark": 0.2, "light": 0.2, "striped": 0.25, "dotted": 0.35}


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
    Size(96, 96, 17, batch=10, begin=0.5, every=8),
    Size(128, 128, 33, batch=3, begin=0.5, every=5),
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
        words = ["" if self._rng.uniform() < CAPTION_DROPOUT else self._captions[index] for index in chosen]
        return self._latents[torch.from_numpy(chosen)], words

    def _draw(self) -> tuple[torch.Tensor, str]:
        scene = sample_scene(self._rng, sample_caption(self._rng))
        video = torch.from_numpy(render(scene, self._size.height, self._size.width, self._size.frames))
        encoded = self._autoencoder.encode(video.permute(3, 0, 1, 2)[None] * 2 - 1).latent_dist.mode()
        return self._autoencoder.normalise(encoded)[0], str(scene.caption)


class Trainer:
    """Denoiser, text encoder, their averages and pools of clips; `step` trains on one batch."""

    def __init__(
        self, autoencoder: PatchAutoencoder, width: int, layers: int, rate: float, device: str, pool: int = 2000
    ) -> None:
        self.autoencoder, self.tokenizer = autoencoder, make_tokenizer()
        self.text = make_text_encoder(len(self.tokenizer)).to(device)
        self.denoiser = make_denoiser(autoencoder.config.z_dim, width, layers).to(device)
        self.learner = Learner(self.denoiser, rate, text=self.text)
        self._colours = colour_form(autoencoder).to(device)
        self._device, self._pool = device, pool
        self._clips: dict[Size, Clips] = {}

    def step(self, index: int, progress: float) -> float:
        """One update on clips of the size whose turn it is; returns the loss."""
        size = size_at(index, progress, SIZES)
        if size not in self._clips:
            count = max(self._pool * size.batch // SIZES[0].batch, 8)
            self._clips[size] = Clips(self.autoencoder, size, count, seed=index)
        return self.update(*self._clips[size].batch(), progress)

    def update(self, latents: torch.Tensor, texts: list[str], progress: float) -> float:
        latents = latents.to(self._device)
        noise, sigma = torch.randn_like(latents), sample_sigma(len(latents)).to(self._device)
        with in_16_bits(self._device):
            words = embed(self.tokenizer, self.text, texts)
            error = velocity_error(self.denoiser, latents, noise, sigma, words)
        return self.learner.update(error.square().mean() + COLOUR_WEIGHT * in_colour(error, self._colours), progress)

    def start_from(self, folder: Path) -> None:
        """Takes the weights of an exported model, such as the packaged one; the optimisers begin anew."""
        denoiser = WanTransformer3DModel.from_pretrained(folder / "transformer").state_dict()
        text = UMT5EncoderModel.from_pretrained(folder / "text_encoder").state_dict()
        self.learner.begin_with(denoiser=denoiser, text=text)

    def state(self) -> dict[str, Any]:
        return self.learner.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state)

    def export(self, folder: Path) -> None:
        """Writes the averaged model as a diffusers pipeline folder."""
        self.learner.averaged["denoiser"].save_pretrained(folder / "transformer")
        self.learner.averaged["text"].save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.autoencoder.save_pretrained(folder / "vae")
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


def velocity_error(
    denoiser: WanTransformer3DModel,
    latents: torch.Tensor,
    noise: torch.Tensor,
    sigma: torch.Tensor,
    words: torch.Tensor,
) -> torch.Tensor:
    """By how much the denoiser misses the velocity, noise - x0, at these noise levels."""
    mix = sigma.view(-1, 1, 1, 1, 1)
    predicted = denoiser((1 - mix) * latents + mix * noise, sigma * 1000, words, return_dict=False)[0]
    error: torch.Tensor = predicted.float() - (noise - latents)  # (B, C, T, H, W)
    return error


def in_colour(error: torch.Tensor, form: torch.Tensor) -> torch.Tensor:
    """The mean square of an error's part in colour, which is what `colour_form` makes of it."""
    return torch.einsum("bcthw,cd,bdthw->bthw", error, form, error).mean()


def colour_form(autoencoder: PatchAutoencoder) -> torch.Tensor:
    """The quadratic form (C, C), of trace 1, that an error in normalised latents takes in what is not grey."""
    hues = torch.tensor([[1.0, -0.5, -0.5], [0.0, 0.75**0.5, -(0.75**0.5)]])  # red, green, blue to the colour plane
    parts = autoencoder.basis.view(len(autoencoder.basis), 3, -1)  # (C, 3, pixels of a patch)
    plane = torch.einsum("hr,crp->chp", hues, parts).flatten(1)
    plane = plane * torch.tensor(autoencoder.config.latents_std)[:, None]
    form = plane @ plane.T
    return form / form.trace()


def sample_caption(rng: np.random.Generator) -> Caption:
    """A random caption, with the shapes and the backgrounds as often as they need."""
    every = captions()
    odds = np.array([SHAPE_ODDS[caption.shape] * BACKGROUND_ODDS[caption.background] for caption in every])
    return every[int(rng.choice(len(every), p=odds / odds.sum()))]


def sample_sigma(count: int) -> torch.Tensor:
    """Noise levels of a batch: mostly logit-normal, some uniform, then shifted as the sampler's schedule is."""
    normal = torch.sigmoid(torch.randn(count))
    t = torch.where(torch.rand(count) < 0.8, normal, torch.rand(count))
    return shifted(t)


def fit_autoencoder(clips: int, channels: int) -> PatchAutoencoder:
    rng = np.random.default_rng(1)
    videos = np.stack([render(sample_scene(rng)) for _ in range(clips)])
    samples = torch.from_numpy(videos).permute(0, 4, 1, 2, 3) * 2 - 1
    fitted: PatchAutoencoder = PatchAutoencoder.fit(samples, z_dim=channels)
    return fitted


def train(options: argparse.Namespace) -> None:
    """Begins a run or takes one up, and trains."""
    out = begin(options)
    known = next((Path(folder) for folder in (out, options.start) if folder and (Path(folder) / "vae").exists()), None)
    if known is not None:
        autoencoder = PatchAutoencoder.from_pretrained(known / "vae")
    else:
        autoencoder = fit_autoencoder(options.pool // 4, options.channels)
    trainer = Trainer(autoencoder, options.width, options.layers, options.rate, options.device, options.pool)
    if options.start:
        trainer.text.requires_grad_(False)  # the packaged siblings use this text encoder too
        if not (out / "checkpoint.pt").exists():
            trainer.start_from(Path(options.start))
    if options.compile:
        trainer.denoiser.compile_repeated_blocks()
    proceed(trainer, out, options)


def size_at(step: int, progress: float, sizes: Iterable[Size]) -> Size:
    """The size of this step: the last in the list whose turn it is."""
    return [size for size in sizes if progress >= size.begin and step % size.every == 0][-1]


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("Train the pocket video model.", minutes=75.0, rate=2e-3)
    parser.add_argument("--start", help="folder of an exported model to go on from, such as accel/pocket/video")
    parser.add_argument("--width", type=int, default=128, help="width of the transformer, a multiple of 64")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--channels", type=int, default=24, help="latent channels")
    parser.add_argument("--pool", type=int, default=2000, help="clips kept in memory")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
