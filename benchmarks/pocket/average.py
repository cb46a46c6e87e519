"""Averages the denoisers of several training parts: `python -m benchmarks.pocket.average PART PART --out DIR`.

Models that were trained on from one another, each with its own weights of the loss, lie in one valley, and the mean of
their weights can have less of what each got wrong (model soups, arXiv 2203.05482). Whether it does is measured: the
loss of flow matching, and its part in colour, on drawn clips that no training has seen, of each part and of the mean,
for every part from the same noise. All but the denoiser is that of the first part.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from accel.pocket.pipeline import WanPocketPipeline
from accel.pocket.text import embed
from benchmarks.pocket.train_video import SIZES, Clips, Size, colour_form, in_colour, sample_sigma, velocity_error

CLIPS_SEED = 777  # of the drawn clips; trainings take the number of a step
NOISE_SEED = 9
BATCHES = 10

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # latents, noise, noise levels, words


def mean_of(denoisers: Sequence[WanTransformer3DModel]) -> WanTransformer3DModel:
    """A denoiser with the mean of their weights; they must have one architecture."""
    states = [denoiser.state_dict() for denoiser in denoisers]
    found: WanTransformer3DModel = WanTransformer3DModel.from_config(denoisers[0].config)
    found.load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
    return found


@torch.no_grad()
def unseen(pipe: WanPocketPipeline, size: Size, batches: int) -> list[Batch]:
    """Batches of clips of a training size, with the noise they are judged with."""
    clips = Clips(pipe.vae, size, size.batch, seed=CLIPS_SEED)
    torch.manual_seed(NOISE_SEED)
    found = []
    for _ in range(batches):
        latents, captions = clips.batch(fresh=size.batch)
        words = embed(pipe.tokenizer, pipe.text_encoder, captions)
        found.append((latents, torch.randn_like(latents), sample_sigma(len(latents)), words))
    return found


@torch.no_grad()
def losses(denoiser: WanTransformer3DModel, batches: Sequence[Batch], form: torch.Tensor) -> tuple[float, float]:
    """The mean square of the velocity's error, and of its part in colour (`train_video.colour_form`)."""
    whole = coloured = 0.0
    for batch in batches:
        error = velocity_error(denoiser, *batch)
        whole += float(error.square().mean())
        coloured += float(in_colour(error, form))
    return whole / len(batches), coloured / len(batches)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Average the denoisers of several training parts.")
    parser.add_argument("parts", nargs="+", type=Path, help="folders that benchmarks.pocket.train_video has written")
    parser.add_argument("--out", required=True, type=Path, help="folder for the averaged model")
    parser.add_argument("--batches", type=int, default=BATCHES, help="batches of unseen clips for each size")
    options = parser.parse_args(arguments)
    pipe = WanPocketPipeline.from_folder(options.parts[0])
    folders = [part / "transformer" for part in options.parts]
    denoisers = {str(folder.parent): WanTransformer3DModel.from_pretrained(folder).float() for folder in folders}
    denoisers[str(options.out)] = mean = mean_of(list(denoisers.values()))
    form = colour_form(pipe.vae)
    for size in SIZES:
        batches = unseen(pipe, size, options.batches)
        for name, denoiser in denoisers.items():
            whole, coloured = losses(denoiser, batches, form)
            print(f"{size.height}x{size.width}, {name}: loss {whole:.4f}, in colour {coloured:.4f}", flush=True)
    shutil.copytree(options.parts[0], options.out, dirs_exist_ok=True)
    mean.save_pretrained(options.out / "transformer")


if __name__ == "__main__":
    main()
