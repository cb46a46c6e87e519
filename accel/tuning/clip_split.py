"""Which clips are generated: those that a tuning searches with, and those that its winner is judged on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from accel.measure.pipeline_runs import check_seed

SEARCH_SHOTS = 4  # at most so many clips to search with
FEWEST_HELD_OUT = 6  # clips that a promise is judged on, with further seeds where prompts are few


Scope = Literal["prompts", "seeds"]


class PromptSeed(NamedTuple):
    """One thing to generate."""

    prompt: str
    seed: int


class ClipSplit(NamedTuple):
    """What is searched with, and what the winner is judged on: every held-out prompt with every held-out seed."""

    shots: tuple[PromptSeed, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def unseen(self) -> tuple[PromptSeed, ...]:
        return tuple(PromptSeed(prompt, seed) for prompt in self.prompts for seed in self.seeds)

    @property
    def held_out(self) -> int:
        return len(self.unseen)

    @property
    def scope(self) -> Scope:
        """What a promise is about: all prompts, or, where none was put aside to judge on, other seeds of the same."""
        searched = {shot.prompt for shot in self.shots}
        return "seeds" if set(self.prompts) <= searched else "prompts"

    def judged_on(self, count: int) -> ClipSplit:
        """With fewer held-out prompts, at most `count` clips in all, but never fewer than a promise needs."""
        least = math.ceil(FEWEST_HELD_OUT / len(self.seeds))
        return self._replace(prompts=self.prompts[: max(count // len(self.seeds), least)])


def split_clips(prompts: Sequence[str], held_out: Sequence[str] | None, seed: int) -> ClipSplit:
    """Of six and more prompts a third to search with; of fewer all, and held out with other seeds.

    Raises ValueError, in one sentence, for what is not a list of prompts.
    """
    for name, given in (("prompts", prompts), ("held_out", held_out)):
        if given is None and name == "held_out":
            continue
        several: Sequence[object] = () if isinstance(given, str) or not isinstance(given, Sequence) else given
        if len(several) == 0 or not all(isinstance(text, str) for text in several):
            raise ValueError(
                f'{name} must be a list of one or more strings, such as ["a corgi surfing"], not {given!r}.'
            )
    check_seed(seed)
    texts, first = tuple(prompts), seed
    if held_out is not None:
        searched, judged = texts[:SEARCH_SHOTS], tuple(held_out)
    elif len(texts) >= 6:
        count = min(len(texts) // 3, SEARCH_SHOTS)
        searched, judged = texts[:count], texts[count:]
    else:
        searched, judged, first = texts[:SEARCH_SHOTS], texts, seed + 1
    seeds = tuple(range(first, first + math.ceil(FEWEST_HELD_OUT / len(judged))))
    return ClipSplit(tuple(PromptSeed(prompt, seed) for prompt in searched), judged, seeds)
