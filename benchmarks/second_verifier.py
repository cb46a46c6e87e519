"""A second opinion of pocket clips: small networks that read the caption's four words off a clip.

`accel.pocket.verify` judges by image analysis. To rank seeds by anything but the judge, these networks learn the same
words from rendered scenes alone, sharp and blurred. They never see the judge's verdicts or a generated clip. Training
takes about ten minutes of one core, once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from accel.measure.metrics import Clip
from accel.pocket.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Caption, render, sample_scene

WORDS: Mapping[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "motion": tuple(MOTIONS),
    "background": BACKGROUNDS,
}
FRAMES = (0, 3, 6, 10, 13, 16)  # of 17
MOST_BENT, MOST_WORN = 0.25, 0.7  # of half a window, and of the cover, where a shape tells nothing any more
LEAST_SHAPE = 0.4
OUTLINE_READERS = 3

# Of clips and the numbers of their words, in so many steps.
Train = Callable[[nn.Module, torch.Tensor, torch.Tensor, int], None]
_HUES = torch.tensor([[value > 0.5 for value in rgb] for rgb in COLOURS.values()])  # each colour as on and off


class WordReader(nn.Module):
    """Six frames of 64x64 as channels, to one logit for each word of the grammar."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3 * len(FRAMES), 40, 64, 96, 128)
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            blocks += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.seen = nn.Sequential(*blocks, nn.Flatten())
        self.words = nn.Linear(widths[-1] * 16, sum(map(len, WORDS.values())))

    def forward(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """frames (clips, 18, 64, 64) in [0, 1]; log-probabilities (clips, words) for each of the four attributes."""
        logits = self.words(functional.dropout(self.seen(frames - 0.5), 0.2, self.training))
        parts = logits.split([len(words) for words in WORDS.values()], dim=1)
        return {name: part.log_softmax(1) for name, part in zip(WORDS, parts, strict=True)}


class OutlineReader(nn.Module):
    """The coloured object alone, cut out of the frames and laid over itself, to the shapes' log-probabilities."""

    def __init__(self) -> None:
        super().__init__()
        widths = (2, 24, 48, 64)
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            blocks += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*blocks, nn.Flatten(), nn.Dropout(0.2), nn.Linear(widths[-1] * 16, len(SHAPES)))

    def forward(self, cuts: torch.Tensor) -> torch.Tensor:
        """cuts as `cut_out` makes them; (clips, shapes)."""
        return self.layers(cuts).log_softmax(1)  # type: ignore[no-any-return]


Reader = TypeVar("Reader", WordReader, OutlineReader)


@dataclass(frozen=True)
class SecondVerifier:
    """Words by one network; shapes by some that see them better, each trained from another start."""

    words: WordReader
    outlines: tuple[OutlineReader, ...]

    @torch.no_grad()
    def probabilities(self, clip: Clip, prompt: str) -> dict[str, float]:
        """How likely each word of the caption is what the clip (17, 64, 64, 3) shows."""
        caption = Caption.parse(prompt)
        frames = stacked(torch.from_numpy(np.ascontiguousarray(clip, np.float32))[None])
        cuts = cut_out(frames)
        shape = torch.stack([reader(cuts).exp() for reader in self.outlines]).mean(0)
        read = {name: logarithm.exp() for name, logarithm in self.words(frames).items()} | {"shape": shape}
        return {name: float(read[name][0, _word(caption, name)]) for name in WORDS}


def rating(verifier: SecondVerifier, clip: Clip, prompt: str) -> float:
    """The mean log-probability of the caption's words, each at least that of one in a thousand."""
    return float(np.mean([np.log(max(p, 1e-3)) for p in verifier.probabilities(clip, prompt).values()]))


def approves(verifier: SecondVerifier, clip: Clip, prompt: str) -> bool:
    """Whether every word of the caption is likely to be what the clip shows, and its shape not all too ragged."""
    found = verifier.probabilities(clip, prompt)
    return all(found[name] > (LEAST_SHAPE if name == "shape" else 0.5) for name in WORDS)


def stacked(clips: torch.Tensor) -> torch.Tensor:
    """Clips (n, 17, height, width, 3) as the network takes them."""
    return clips[:, list(FRAMES)].permute(0, 1, 4, 2, 3).flatten(1, 2)


def trained(folder: Path, autoencoder: Any, *, scenes: int = 4000, steps: int = 1500, seed: int = 11) -> SecondVerifier:
    """The verifier of this folder, trained first where there is none.

    autoencoder: the pocket model's, through which rendered clips go first, as generated ones come out of it.
    """
    drawn = functools.cache(lambda: rendered(autoencoder, scenes, seed))

    def reader(kind: type[Reader], name: str, train: Train, start: int) -> Reader:
        path = folder / name
        if not path.is_file():
            torch.manual_seed(start)
            learner = kind()
            train(learner.train(), *drawn(), steps)
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(learner.state_dict(), path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        found = kind()
        found.load_state_dict(torch.load(path, weights_only=True))
        return found.eval()

    words = reader(WordReader, "words.pt", _train_words, seed)
    numbers = range(OUTLINE_READERS)
    outlines = (reader(OutlineReader, f"outlines-{n}.pt", _train_outlines, seed + 1 + n) for n in numbers)
    return SecondVerifier(words, tuple(outlines))


def _train_words(reader: nn.Module, clips: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    def loss() -> torch.Tensor:
        chosen = torch.randint(len(clips), (48,))
        frames, truth = varied(clips[chosen].float() / 255.0, labels[chosen])
        read = reader(blurred(frames))
        return torch.stack([functional.nll_loss(read[name], truth[:, i]) for i, name in enumerate(WORDS)]).sum()

    _descend(reader, loss, steps)


def _train_outlines(reader: nn.Module, clips: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    cuts = torch.cat([cut_out(some.float() / 255.0) for some in clips.split(100)])

    def loss() -> torch.Tensor:
        chosen = torch.randint(len(cuts), (96,))
        seen, badly = bent(cuts[chosen])
        # The worse a shape, the less its word is to be believed: so that clean ones are preferred to ragged ones.
        sure = functional.one_hot(labels[chosen, 1], len(SHAPES)) * (1.0 - badly[:, None])
        read: torch.Tensor = reader(seen)
        return -((sure + badly[:, None] / len(SHAPES)) * read).sum(1).mean()

    _descend(reader, loss, steps)


def _descend(reader: nn.Module, loss: Callable[[], torch.Tensor], steps: int) -> None:
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def cut_out(frames: torch.Tensor) -> torch.Tensor:
    """Mean and median over the frames of how much of each pixel is coloured, (clips, 2, 32, 32), the object's centre in
    the middle of a window of 48 pixels.
    """
    shown = frames.unflatten(1, (len(FRAMES), 3))
    chroma = (shown.amax(2) - shown.amin(2) - 0.12).clamp(min=0.0)
    mass = chroma.sum((2, 3)).clamp(min=1e-3)
    line = torch.arange(64) + 0.5
    across, down = ((chroma.sum(axis) @ line) / mass for axis in (2, 3))
    window = (torch.arange(32) - 15.5) * 1.5
    x = ((across[..., None] + window) / 32 - 1)[..., None, :].expand(-1, -1, 32, -1)
    y = ((down[..., None] + window) / 32 - 1)[..., None].expand(-1, -1, -1, 32)
    places = torch.stack([x, y], -1).flatten(0, 1)
    cut = functional.grid_sample(chroma.flatten(0, 1)[:, None], places, align_corners=False)
    cut = cut.view(len(frames), len(FRAMES), 32, 32)
    full = cut.flatten(2).quantile(0.9, 2).clamp(min=0.05)[..., None, None]
    covered = (cut / full).clamp(max=1.2)
    return torch.stack([covered.mean(1), covered.median(1).values], 1)


def bent(cuts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Stretched, bent, worn away in places and out of focus, each in its own way, and how badly, from 0 to 1: what
    generated shapes are like.
    """
    count = len(cuts)
    bend, wear = MOST_BENT * torch.rand(count, 1, 1, 1), MOST_WORN * torch.rand(count, 1, 1, 1)
    grid = functional.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, 32, 32], align_corners=False)
    stretch = torch.exp(0.08 * torch.randn(count, 1, 1, 2))
    coarse = torch.randn([count, 2, *(int(torch.randint(4, 8, ())),) * 2])
    field = functional.interpolate(bend * coarse, 32, mode="bicubic").permute(0, 2, 3, 1)
    found = functional.grid_sample(cuts, grid * stretch + field, align_corners=False)
    worn = functional.interpolate(torch.randn(count, 1, 6, 6), 32, mode="bicubic").clamp(min=0.0)
    found = found * (1.0 + 0.3 * torch.rand(count, 1, 1, 1) - wear * worn).clamp(0.1, 1.0)
    if torch.rand(()) < 0.5:
        spread = 0.3 + 1.5 * float(torch.rand(()))
        line = torch.exp(-(torch.arange(-4, 5) ** 2) / (2 * spread**2))
        line = (line / line.sum()).expand(2, 1, 1, -1)
        found = functional.conv2d(found, line, padding=(0, 4), groups=2)
        found = functional.conv2d(found, line.mT, padding=(4, 0), groups=2)
    badly = torch.maximum(bend / MOST_BENT, 0.7 * wear / MOST_WORN)
    return found + 0.03 * torch.randn_like(found), badly.flatten()


def rendered(autoencoder: Any, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random scenes as uint8 (count, 18, 64, 64), and the numbers of their four words (count, 4)."""
    random = np.random.default_rng(seed)
    clips, labels = [], []
    for _ in range(count):
        scene = sample_scene(random)
        video = torch.from_numpy(render(scene)).permute(3, 0, 1, 2)[None] * 2 - 1
        with torch.no_grad():
            decoded = autoencoder.decode(autoencoder.encode(video).latent_dist.mode()).sample
        clip = (decoded[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1)
        clips.append((stacked(clip[None])[0] * 255).to(torch.uint8))
        labels.append([_word(scene.caption, name) for name in WORDS])
    return torch.stack(clips), torch.tensor(labels)


def varied(frames: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirrored, played backwards and with primary colours exchanged, all by one draw for the batch."""
    mirror, backwards = (bool(torch.rand(()) < 0.5) for _ in range(2))
    order = torch.randperm(3)
    shown, truth = frames.unflatten(1, (len(FRAMES), 3))[:, :, order], labels.clone()
    hues = (_HUES[:, None, order] == _HUES[None]).all(-1).nonzero()  # pairs (before, after)
    moved = torch.tensor(list(MOTIONS.values()))
    turn = torch.tensor([-1 if mirror != backwards else 1, -1 if backwards else 1])
    moves = (moved[:, None] * turn == moved[None]).all(-1).nonzero()
    truth[:, 0], truth[:, 2] = hues[labels[:, 0], 1], moves[labels[:, 2], 1]
    shown = shown.flip(-1) if mirror else shown
    return (shown.flip(1) if backwards else shown).flatten(1, 2), truth


def blurred(frames: torch.Tensor) -> torch.Tensor:
    """Half of the time out of focus and paler, as early estimates are; always a little noise."""
    if torch.rand(()) < 0.5:
        spread = 0.3 + 2.7 * float(torch.rand(()))
        at = torch.arange(-6, 7)
        line = torch.exp(-(at**2) / (2 * spread**2))
        line = (line / line.sum()).expand(frames.shape[1], 1, 1, -1)
        frames = functional.conv2d(frames, line, padding=(0, 6), groups=frames.shape[1])
        frames = functional.conv2d(frames, line.mT, padding=(6, 0), groups=frames.shape[1])
        frames = 0.5 + (frames - 0.5) * (0.6 + 0.5 * float(torch.rand(())))
    return frames + 0.03 * torch.randn_like(frames)


def _word(caption: Caption, name: str) -> int:
    return WORDS[name].index(getattr(caption, name))
