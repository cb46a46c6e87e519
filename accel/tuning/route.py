"""Sends each prompt to the cheapest model that suffices for it, and to the base model where it is unsure."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from accel.drafting.call_memory import CallMemory
from accel.drafting.early_end import EarlyEnd
from accel.drafting.seeded_runs import SeededRuns
from accel.measure.metrics import to_frames
from accel.tuning.conformal import NEVER, Array, Likelihood, safe_threshold, taken
from accel.tuning.models import ChoiceResult, ModelChoice, ModelFront

LOOK = 0.02  # of a run, at least one step: what a model is compared with the base after
BUCKETS = 8  # of words

EarlyError = Callable[[ModelChoice, str, int], float]


@dataclass(frozen=True)
class Routed:
    """Where a prompt was sent, and what came of it."""

    choice: ModelChoice
    output: Any = field(repr=False)


@dataclass(frozen=True)
class Route:
    """A front, and from how likely on each of its choices is taken.

        front = accel.tune([base, small, few], prompts, verify=score)
        route = Route.learnt(front, risk=0.1)
        video = route("a corgi surfing", seed=3).output

    The likelihood that a choice suffices is learnt on one half of the front's prompts, and the threshold on the other.
    Of prompts like these that are not sent to the base, a share of about `risk` or less is then made worse than by it,
    whatever the features are worth; where they tell too little, everything goes to the base. Features are the early
    error, how far the choice's clean estimate is from the base's after its first step, and those of the prompt: length
    and words.

    Costs, for each prompt, one step of the base and of each cheaper choice, and their decoding; at a base of 50 steps
    some hundredths of a run each. Not for fewer than about 40 prompts: nothing can be promised of them.
    """

    front: ModelFront = field(repr=False)
    choices: tuple[ChoiceResult, ...]
    likelihoods: tuple[Likelihood, ...] = field(repr=False)
    threshold: float
    early: EarlyError = field(repr=False)

    @classmethod
    def learnt(
        cls, front: ModelFront, risk: float = 0.1, *, early: EarlyError | None = None, shuffled: int | None = None
    ) -> Route:
        """early: measures another early error. shuffled: a seed to shuffle what sufficed over the prompts, to see that
        the router then relies on nothing. Raises ValueError for a risk that is no probability.
        """
        if not 0.0 < risk < 1.0:
            raise ValueError(f"risk is a probability between 0 and 1, not {risk!r}.")
        spent = sum(front.base.seconds)
        cheaper = sorted((one for one in front.results if sum(one.seconds) < spent), key=lambda one: sum(one.seconds))
        measure = early or EarlyErrors(front)
        features = [_features(front, one.choice, measure) for one in cheaper]
        suffices = np.array([[a >= b for a, b in zip(one.scores, front.base.scores, strict=True)] for one in cheaper]).T
        if shuffled is not None:
            suffices = np.random.default_rng(shuffled).permutation(suffices)
        if not cheaper or len(front.prompts) < 4:
            return cls(front, (), (), NEVER, measure)
        order = np.random.default_rng(0).permutation(len(front.prompts))
        fit, check = order[::2], order[1::2]
        likelihoods = tuple(Likelihood(x[fit], suffices[fit, n]) for n, x in enumerate(features))
        likely = np.column_stack([one(x[check]) for one, x in zip(likelihoods, features, strict=True)])
        return cls(front, tuple(cheaper), likelihoods, safe_threshold(likely, suffices[check], risk), measure)

    def choose(self, prompt: str, seed: int = 0) -> ModelChoice:
        """Where this prompt goes."""
        if self.threshold == NEVER:
            return self.front.base.choice
        rows = (_row(prompt, self.early(one.choice, prompt, seed)) for one in self.choices)
        likely = np.array([[one(row[None])[0] for one, row in zip(self.likelihoods, rows, strict=True)]])
        found = int(taken(likely, self.threshold)[0])
        return self.choices[found].choice if found < len(self.choices) else self.front.base.choice

    def __call__(self, prompt: str, seed: int = 0) -> Routed:
        """What the chosen pipeline returns for `torch.Generator("cpu").manual_seed(seed)`."""
        choice = self.choose(prompt, seed)
        return Routed(choice, self.front.run(choice, prompt, seed))


class EarlyErrors:
    """The root mean square difference, in [0, 1], of a choice's clean estimate from the base's after their first step.

    Both begin with the noise of the same seed. A switch to another model later in the run has the base's own error, 0.
    """

    def __init__(self, front: ModelFront) -> None:
        self._front = front
        self._base: dict[tuple[str, int], Any] = {}

    def __call__(self, choice: ModelChoice, prompt: str, seed: int) -> float:
        if (prompt, seed) not in self._base:
            self._base[prompt, seed] = self._estimate(self._front.base.choice, prompt, seed)
        ours, theirs = self._estimate(choice, prompt, seed), self._base[prompt, seed]
        return float(np.sqrt(np.mean((ours - theirs) ** 2))) if ours.shape == theirs.shape else 1.0

    def _estimate(self, choice: ModelChoice, prompt: str, seed: int) -> Any:
        steps = {} if choice.steps is None else {"num_inference_steps": choice.steps}
        runs = SeededRuns(self._front.pipes[choice.model], prompt, {**self._front.call, **steps})
        with runs.accelerated(choice.recipe) as run:
            return to_frames(run(seed, CallMemory(), EarlyEnd(LOOK)).output)


def _features(front: ModelFront, choice: ModelChoice, early: EarlyError) -> Array:
    return np.array([_row(prompt, early(choice, prompt, seed)) for prompt, seed in front.shots])


def _row(prompt: str, error: float) -> Array:
    """The early error, the number of words, and which words there are, in a few buckets."""
    words: Sequence[str] = prompt.lower().split()
    buckets = np.zeros(BUCKETS)
    for word in words:
        buckets[zlib.crc32(word.encode()) % BUCKETS] += 1.0
    return np.array([np.log(max(error, 1e-6)), len(words), *buckets])
