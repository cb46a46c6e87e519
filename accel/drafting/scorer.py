"""Asks the user's verifier how good a pipeline's output is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from accel.measure.metrics import to_frames


class Scorer:
    """Asks the user's verifier about a pipeline's output."""

    def __init__(self, verifier: Callable[..., Any], prompt: str | None) -> None:
        if not callable(verifier):
            raise TypeError(f"The verifier is a function that gives frames a score, not {verifier!r}.")
        self._verifier = verifier
        self._further = (prompt,) if _takes(verifier, 2) else ()
        if not self._further and not _takes(verifier, 1, untold=True):
            raise TypeError(f"The verifier is called with frames, or with frames and the prompt, unlike {verifier!r}.")

    def __call__(self, output: Any) -> float:
        answer = self._verifier(to_frames(output), *self._further)
        matches = getattr(answer, "matches", None)
        try:
            score: float = float(answer) if matches is None else sum(map(bool, matches.values())) / max(len(matches), 1)
        except (TypeError, ValueError):
            raise TypeError(f"The verifier must give a number, not {answer!r}.") from None
        if not math.isfinite(score):
            raise ValueError(f"The verifier must give a finite number, not {score}.")
        return score


def _takes(verifier: Callable[..., Any], count: int, *, untold: bool = False) -> bool:
    """Whether it can be called with so many arguments; untold: what is said of one that does not tell."""
    try:
        inspect.signature(verifier).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a built-in function
        return untold
    return True
