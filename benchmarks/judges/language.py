"""The prompts of a judge: a fixed number of words, each from a list of its own, and what the denoiser sees of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

HELD_OUT = 8
"""One in so many prompts is kept from training."""


@dataclass(frozen=True)
class Language:
    """Prompts such as "ripples fast cold": one word from each of `slots`, in that order.

    Where there is more than one slot some combinations are held out: a judge never saw them, but saw their words.
    """

    slots: tuple[tuple[str, ...], ...]

    def prompts(self) -> list[str]:
        """All of them, in a fixed order."""
        return [" ".join(words) for words in itertools.product(*self.slots)]

    def held_out(self) -> list[str]:
        """Those that no judge was trained on, in a seeded random order; all where a prompt is a single word."""
        every = self.prompts()
        order = np.random.default_rng(0).permutation(len(every))
        return [every[i] for i in (order if len(self.slots) == 1 else order[: len(every) // HELD_OUT])]

    def trained(self) -> list[str]:
        """Those that a judge was trained on."""
        held = set(self.held_out()) if len(self.slots) > 1 else set()
        return [prompt for prompt in self.prompts() if prompt not in held]

    def words(self, prompt: str) -> tuple[str, ...]:
        """The words of a prompt. Raises ValueError where it is not one of `prompts()`."""
        words = tuple(prompt.split())
        if len(words) != len(self.slots) or any(w not in slot for w, slot in zip(words, self.slots, strict=True)):
            wanted = ", then ".join("/".join(slot) for slot in self.slots)
            raise ValueError(f"cannot read the prompt {prompt!r}: write one of {wanted}.")
        return words

    def ids(self, prompt: str) -> list[int]:
        """Numbers of the words, from 1 on over all slots; zeros for the empty prompt."""
        if not prompt.strip():
            return [0] * len(self.slots)
        begin = itertools.accumulate((len(slot) for slot in self.slots), initial=1)
        return [
            first + slot.index(word) for first, slot, word in zip(begin, self.slots, self.words(prompt), strict=False)
        ]


class Words(nn.Module):
    """Embeddings of prompts, trained with the denoiser: a row for each word, and the empty prompt's rows."""

    def __init__(self, language: Language, width: int) -> None:
        super().__init__()
        self.language = language
        rows = 1 + sum(len(slot) for slot in language.slots)
        self.table = nn.Parameter(torch.randn(rows, width))
        self.summary = nn.Parameter(torch.randn(rows, width))

    def forward(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (prompts, words, width), and one vector (prompts, width) for each prompt."""
        ids = torch.tensor([self.language.ids(prompt) for prompt in prompts], device=self.table.device)
        return self.table[ids], self.summary[ids].mean(1)
