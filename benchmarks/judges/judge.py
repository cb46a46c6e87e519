"""What a judge is: a small trained model in a stock pipeline, and how it is to be called."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

import accel.pocket.autoencoder
import benchmarks.judges.lapped
from accel.measure.metrics import Clip, to_frames
from accel.pocket.pipeline import no_progress_bars
from benchmarks.judges.card import card
from benchmarks.judges.family import Family
from benchmarks.judges.language import Language, Words
from benchmarks.judges.objectives import Objective
from benchmarks.judges.prompted import prompted

MODELS = Path(__file__).parent / "models"
NOTES = "training.json"

Draw = Callable[[np.random.Generator, tuple[str, ...]], NDArray[np.float32]]


@dataclass(frozen=True)
class Training:
    """How long a judge learns, and on how much."""

    updates: int
    batch: int = 16
    pool: int = 1000
    rate: float = 2e-3
    fresh: int = 1
    """Samples of the pool that are drawn anew at each update."""


@dataclass(frozen=True)
class Source:
    """What the data are, and on what terms: a sentence each."""

    data: str
    licence: str


@dataclass(frozen=True)
class Judge:
    """A model that the library is judged on, and that nothing in it was tuned on.

    schedulers: two makers of schedulers, the one that it was trained for first.
    guidance_scales: two, the lower first; a pipeline's calls default to the higher.
    call: what else a call needs: sizes.
    """

    name: str
    family: Family
    language: Language
    draw: Draw
    source: Source
    objective: Objective
    schedulers: Mapping[str, Callable[[], Any]]
    guidance_scales: tuple[float, float]
    autoencoder: Callable[[torch.Tensor], Any]
    training: Training
    call: Mapping[str, Any] = field(default_factory=dict)
    video: bool = False

    @property
    def folder(self) -> Path:
        return MODELS / self.name

    @property
    def prompts(self) -> list[str]:
        """Prompts that it was not trained on, in a seeded random order; where prompts are single words, all of them."""
        return self.language.held_out()

    def load(self, scheduler: str | None = None) -> DiffusionPipeline:
        """The pipeline on the CPU in float32, with the scheduler of that name or else the first. It takes a quarter of
        a second, and each call loads anew.

        Raises FileNotFoundError where it was not trained yet, and KeyError for a scheduler that it does not have.
        """
        if not (self.folder / "words.safetensors").is_file():
            raise FileNotFoundError(f"{self.name} is not trained: run python -m benchmarks.judges.train {self.name}")
        with no_progress_bars():
            denoiser, vae = self._read("denoiser"), self._read("vae")
        return self.assemble(denoiser, vae, self.words(), scheduler)

    def words(self) -> Words:
        """What the denoiser sees of the prompts."""
        words = Words(self.language, self.family.width)
        saved = load_file(self.folder / "words.safetensors")
        words.load_state_dict({key: value.float() for key, value in saved.items()})
        return words

    def assemble(
        self, denoiser: nn.Module, vae: nn.Module, words: Words, scheduler: str | None = None
    ) -> DiffusionPipeline:
        """The stock pipeline of these parts; it takes prompts as text."""
        chosen = self.schedulers[scheduler or next(iter(self.schedulers))]()
        pipe = self.family.pipeline(denoiser.eval(), vae, chosen)
        return prompted(pipe, self.family, words.requires_grad_(False), self.guidance_scales[1], self.call)

    def clip(self, pipe: DiffusionPipeline, number: int, steps: int, guidance: float) -> Clip:
        """What its pipeline makes of a prompt, by number, with a seed of that number."""
        prompt, generator = self.prompts[number % len(self.prompts)], torch.Generator().manual_seed(number)
        return to_frames(pipe(prompt, num_inference_steps=steps, guidance_scale=guidance, generator=generator))

    def save(self, denoiser: Any, vae: Any, words: Words) -> None:
        """Writes the parts in float16."""
        for name, part in (("denoiser", denoiser), ("vae", vae)):
            part.half().save_pretrained(self.folder / name)
        save_file({key: value.half() for key, value in words.state_dict().items()}, self.folder / "words.safetensors")

    def finish(self, **measured: float) -> None:
        """Notes beside the model that it is complete and what was measured in training, and writes its card."""
        notes = {"updates": self.training.updates} | {key: round(value, 4) for key, value in measured.items()}
        (self.folder / NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
        pipe = self.load()
        text = card(self, pipe.unet if hasattr(pipe, "unet") else pipe.transformer, type(pipe).__name__)
        (self.folder / "README.md").write_text(text, encoding="utf-8")

    def trained(self) -> bool:
        """Whether the model is there and has learnt for at least as long as it should."""
        path = self.folder / NOTES
        return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["updates"] >= self.training.updates

    def _read(self, part: str) -> Any:
        name = json.loads((self.folder / part / "config.json").read_text(encoding="utf-8"))["_class_name"]
        homes = (diffusers, accel.pocket.autoencoder, benchmarks.judges.lapped)
        kind = next(getattr(home, name) for home in homes if hasattr(home, name))
        return kind.from_pretrained(self.folder / part, local_files_only=True, torch_dtype=torch.float32)
