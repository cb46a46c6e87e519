"""What a scheduler or solver does in one step, as far as other levers must know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Update:
    """An update that is linear in the last answers: x' = keep x + sum of the answers, each times its weight.

    x is the sample in the common coordinates (1 - t) x0 + t noise, t falls from 1 to 0, and the answers are velocities
    (noise - x0) or clean estimates. depth: how many answers are used, the newest included. weights: of noise levels of
    the answers so far (oldest first), the one to go to, and how many updates remain, this one included; answers `keep`
    and the weights, oldest first, of the last answers.
    """

    space: Literal["velocity", "clean"]
    depth: int
    weights: Callable[[Sequence[float], float, int], tuple[float, Sequence[float]]]


# By a scheduler's class name, what its own update is under its present settings, if it is such a one. The samplers,
# which know the weights of solvers, fill it in.
known: dict[str, Callable[[Any], Update | None]] = {}


def own_update(scheduler: Any) -> Update | None:
    """The scheduler's own update where it is linear in several answers and known; else None."""
    find = known.get(type(scheduler).__name__)
    return None if find is None else find(scheduler)
