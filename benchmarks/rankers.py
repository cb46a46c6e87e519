"""Who ranks seeds in the measurements of `best_of`: independent verifiers, worse ones on purpose, and the judge."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from accel import pocket
from accel.measure.metrics import Clip
from benchmarks.second_verifier import SecondVerifier, approves, rating

Ranker = Callable[[Clip, str], float]
RANKERS = ("second", "random", "judge", "noisy", "parts")


def ranker(name: str, second: SecondVerifier | None, parts: Sequence[str] = (), error: float = 0.1) -> Ranker:
    """Scores a clip. "second": the learned verifier, independent of the judge. "random": the number is drawn. "judge":
    as it is judged. "noisy": each of the judge's four verdicts is wrong with probability `error`. "parts": the judge's
    verdicts on these attributes alone. The same prompt and clip always have the same score.
    """

    def score(frames: Clip, prompt: str) -> float:
        if name == "second" and second is not None:
            return rating(second, frames, prompt)
        random = np.random.default_rng(zlib.crc32(frames.tobytes(), zlib.crc32(prompt.encode())))
        if name == "random":
            return float(random.random())
        matches = pocket.verify(frames, prompt).matches
        chosen = [matches[part] for part in parts] if name == "parts" else list(matches.values())
        if name == "noisy":
            chosen = [match ^ bool(random.random() < error) for match in chosen]
        return sum(chosen) / len(chosen)

    return score


def verdict(name: str, score: Ranker, second: SecondVerifier | None, frames: Clip, prompt: str) -> bool:
    """Whether this ranker takes the clip for what its prompt says."""
    if name == "second" and second is not None:
        return approves(second, frames, prompt)
    return score(frames, prompt) >= (0.5 if name == "random" else 1.0)
