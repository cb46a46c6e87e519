"""What earlier tunings found, and what that says about a new model: meta-learning of the choice of acceleration.

A file of one line for each tuning: features of the pipeline and of the run, the goal, the winner, and the factors that
were learned. For a new model the most similar ones give the factors to start from and the candidates to try first (as
MetaInf does for inference methods, arXiv 2505.16527), so that fewer real runs are needed to find a recipe.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from accel.anatomy import Anatomy
from accel.files import lines_of
from accel.plain import parsed
from accel.tuning.foresight import Foresight
from accel.tuning.space import Candidate
from accel.tuning.surrogate import FACTORS

# How far apart two values of a feature are that count as one unit of distance.
SCALES = {
    "log10_parameters": 1.0,
    "log2_steps": 1.0,
    "guidance": 3.0,
    "log10_error": 1.0,
    "flow": 0.5,
    "video": 1.0,
    "two_passes": 0.5,
}
NEIGHBOURS = 3
# Neighbours farther away than this say nothing.
FARTHEST = 4.0
# A factor learned on one similar model may be off by this much here (natural logarithm), more with distance.
CARRIED_SPREAD = 0.45


@dataclass(frozen=True)
class Tuning:
    """One line of the file. limit: the goal's PSNR (None: it asked for a speed or another metric)."""

    features: Mapping[str, float]
    limit: float | None
    speedup: float | None
    winner: Mapping[str, Any]
    psnr: float
    gained: float
    errors: Mapping[str, Sequence[float]]
    times: Mapping[str, float]
    model: str
    runs: int


@dataclass(frozen=True)
class Advice:
    """For a new tuning: factors on errors (mean and spread of their logarithms) and on times, and what to try first."""

    priors: Mapping[str, tuple[float, float]]
    times: Mapping[str, float]
    first: tuple[Candidate, ...]
    models: tuple[str, ...]


def features_of(anatomy: Anatomy, foresight: Foresight, steps: int, guidance: float, frames: int) -> dict[str, float]:
    """What makes one setting like another. log10_error is how hard the run is to forecast: the simulated error of a
    cache that computes a third of the steps."""
    from accel.caching import OptimalSchedule
    from accel.recipe import Recipe

    error = foresight.outlook(Recipe(cache=OptimalSchedule(1 / 3))).errors["cache"]
    return {
        "log10_parameters": math.log10(max(sum(part.parameters for part in anatomy.denoisers.values()), 1)),
        "log2_steps": math.log2(max(steps, 1)),
        "guidance": guidance,
        "log10_error": math.log10(max(error, 1e-8)),
        "flow": float("flow" in anatomy.prediction),
        "video": float(frames > 1),
        "two_passes": float(bool(foresight.passes)),
    }


def advice(
    known: Sequence[Tuning], features: Mapping[str, float], limit: float | None, speedup: float | None
) -> Advice:
    """From the most similar tunings; without any, what `FACTORS` say and no candidates."""
    near = sorted((distance(t.features, features), index) for index, t in enumerate(known))
    chosen = [(far, known[index]) for far, index in near[:NEIGHBOURS] if far <= FARTHEST]
    names = dict.fromkeys(name for _, tuning in chosen for name in tuning.errors)
    priors = {
        name: _pooled([(far, tuning.errors[name]) for far, tuning in chosen if name in tuning.errors]) for name in names
    }
    times: dict[str, float] = {}
    for _, tuning in reversed(chosen):  # the nearest one's count
        times |= dict(tuning.times)
    alike = sorted(chosen, key=lambda pair: pair[0] + _goal_distance(pair[1], limit, speedup))
    return Advice(
        {**FACTORS, **priors},
        times,
        tuple(dict.fromkeys(Candidate.from_dict(tuning.winner) for _, tuning in alike)),
        tuple(dict.fromkeys(tuning.model for _, tuning in chosen)),
    )


def distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Euclidean, in units of `SCALES`; a feature that one of them lacks counts as one unit."""
    parts = [
        (one[name] - other[name]) / scale if name in one and name in other else 1.0 for name, scale in SCALES.items()
    ]
    return math.sqrt(sum(part * part for part in parts))


def load(*paths: Path) -> list[Tuning]:
    """All lines that can be read; a file that is missing is empty, and lines of other versions are passed over.

    Raises ValueError for a file that is none, or too large to be one of ours.
    """
    found = []
    for path in paths:
        for line in lines_of(path) if path.exists() else ():
            try:
                tuning = Tuning(**parsed(line))
                Candidate.from_dict(tuning.winner)
                found += [tuning] if _is_right(tuning) else []
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
    return found


def _is_right(tuning: Tuning) -> bool:
    """Whether the values are what the fields say; the file may have come from somebody else."""
    numbers = [tuning.psnr, tuning.gained, *tuning.features.values(), *tuning.times.values()]
    numbers += [value for value in (tuning.limit, tuning.speedup) if value is not None]
    pairs = [tuple(pair) for pair in tuning.errors.values()]
    numbers += [value for pair in pairs for value in pair]
    return (
        all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers)
        and all(len(pair) == 2 for pair in pairs)
        and isinstance(tuning.model, str)
    )


def remember(path: Path, tuning: Tuning) -> None:
    """Appends a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(tuning)) + "\n")


def own_file() -> Path:
    """Where a user's tunings are remembered: $ACCEL_HOME/history.jsonl, else ~/.cache/accel/history.jsonl."""
    return Path(os.environ.get("ACCEL_HOME") or Path.home() / ".cache" / "accel") / "history.jsonl"


def shipped_file() -> Path:
    """The tunings that this package ships, of the pocket models."""
    return Path(str(files("accel.tuning").joinpath("history.jsonl")))


def _goal_distance(tuning: Tuning, limit: float | None, speedup: float | None) -> float:
    if limit is not None and tuning.limit is not None:
        return abs(limit - tuning.limit) / 5.0
    if speedup is not None and tuning.speedup is not None:
        return abs(math.log(speedup / tuning.speedup)) / 0.3
    return 2.0


def _pooled(near: Sequence[tuple[float, Sequence[float]]]) -> tuple[float, float]:
    """Mean and spread of a factor's logarithm, neighbours weighted by how near they are and how sure they were."""
    weights = [1.0 / ((CARRIED_SPREAD * (1.0 + far)) ** 2 + spread**2) for far, (_, spread) in near]
    mean = sum(weight * value for weight, (_, (value, _)) in zip(weights, near, strict=True)) / sum(weights)
    return mean, max(1.0 / math.sqrt(sum(weights)), CARRIED_SPREAD / 2)
