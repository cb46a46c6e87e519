"""Estimates what a request will cost from what similar ones cost on this device."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from accel.app.dry_run import DryRun
from accel.app.pair import Cost, Side
from accel.app.settings import StudioSettings
from accel.recipe import Recipe

_REMEMBERED = 4096
BOUNDED = {"concurrency_limit": 2, "concurrency_id": "cost"}
"""Of every event that predicts: a rehearsal computes, and is for all visitors together."""


class CallSize(NamedTuple):
    """What decides how long one evaluation takes."""

    model: str
    width: int | None
    height: int | None
    frames: int | None
    guided: bool | None  # None: as the pipeline does by default

    @classmethod
    def of(cls, settings: StudioSettings) -> CallSize:
        guided = None if settings.guidance is None else settings.guidance > 1.0
        return cls(settings.model, settings.width, settings.height, settings.frames, guided)


@dataclass(frozen=True)
class Pace:
    """How long an unaccelerated call takes: seconds before and after denoising, and of one step. size: what the clip
    really had, (width, height, frames).
    """

    before: float
    after: float
    step: float
    size: tuple[int, int, int]
    peak_bytes: int | None

    @property
    def voxels(self) -> int:
        return math.prod(self.size)

    def scaled(self, factor: float, exponent: float) -> Pace:
        """For so many times the pixels, where the time of a step grows with this power of them."""
        peak = None if self.peak_bytes is None else round(self.peak_bytes * factor)
        return Pace(self.before, self.after * factor, self.step * factor**exponent, self.size, peak)


@dataclass(frozen=True)
class Shortcut:
    """What a recipe made of a call: shares of the unaccelerated denoising time and of its evaluations."""

    recipe: Recipe
    steps: int
    time: float
    evaluations: float


class Costs:
    """Remembers what runs have cost and predicts others. Thread-safe.

    A request that has run is told as measured. Otherwise the baseline is the time per step of a call of this size, or
    of another size, scaled; the accelerated side is the share that this recipe took with another prompt, else
    what a rehearsal says of the evaluations that it computes, else the share of the most similar recipe that has run.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paces: OrderedDict[CallSize, Pace] = OrderedDict()
        self._shortcuts: dict[CallSize, list[Shortcut]] = {}
        self._measured: OrderedDict[str, tuple[float, float, float, int | None]] = OrderedDict()
        self._rehearsals: dict[str, DryRun] = {}

    def learn_model(self, model: str, rehearsal: DryRun) -> None:
        """A model has been loaded."""
        with self._lock:
            self._rehearsals[model] = rehearsal

    def learn_baseline(self, settings: StudioSettings, side: Side) -> None:
        """An unaccelerated call has run."""
        seconds = side.seconds
        size = (side.frames.shape[2], side.frames.shape[1], side.frames.shape[0])
        with self._lock:
            call = CallSize.of(settings)
            step = seconds["denoise"] / side.steps
            self._paces[call] = Pace(seconds["before"], seconds["after"], step, size, side.peak_bytes)
            self._paces.move_to_end(call)

    def learn_pair(self, settings: StudioSettings, baseline: Side, accelerated: Side) -> None:
        """Both sides of a request have run."""
        time = accelerated.effort("denoise") / max(baseline.effort("denoise"), 1e-9)
        evaluations = max(1, accelerated.computed) / max(1, baseline.computed)
        shortcut = Shortcut(settings.recipe, settings.steps, time, evaluations)
        with self._lock:
            known = self._shortcuts.setdefault(CallSize.of(settings), [])
            same = [each for each in known if (each.recipe, each.steps) == (settings.recipe, settings.steps)]
            self._shortcuts[CallSize.of(settings)] = [*(each for each in known if each not in same), shortcut][-64:]
            self._measured[settings.key()] = (
                baseline.seconds["total"], accelerated.seconds["total"], evaluations, accelerated.peak_bytes
            )  # fmt: skip
            while len(self._measured) > _REMEMBERED:
                self._measured.popitem(last=False)

    def predict(self, settings: StudioSettings, baseline_cached: bool = False) -> Cost:
        """What these settings will cost."""
        with self._lock:
            measured = self._measured.get(settings.key())
            pace, rehearsal = self._pace(settings), self._rehearsals.get(settings.model)
            shortcuts = list(self._shortcuts.get(CallSize.of(settings), ()))
        if measured is not None:
            return Cost(*measured, source="measured", baseline_cached=baseline_cached)
        time, evaluations = _shares(settings, shortcuts, rehearsal)
        if pace is None:
            return Cost(None, None, evaluations, None, "estimated", baseline_cached)
        around, denoise = pace.before + pace.after, pace.step * settings.steps
        accelerated = None if time is None else around + denoise * time
        return Cost(around + denoise, accelerated, evaluations, pace.peak_bytes, "estimated", baseline_cached)

    def _pace(self, settings: StudioSettings) -> Pace | None:
        """Of this call, else of another of the same model, in proportion to the sizes."""
        wanted = CallSize.of(settings)
        if wanted in self._paces:
            return self._paces[wanted]
        others = [call for call in reversed(self._paces) if call.model == wanted.model]
        like = next((call for call in others if call.guided == wanted.guided), next(iter(others), None))
        if like is None:
            return None
        pace = self._paces[like]
        # What is left to the pipeline is taken to be as it was in the other call.
        asked = zip(wanted[1:4], pace.size, strict=True)
        factor = math.prod((size or made) / made for size, made in asked)
        return pace.scaled(factor, _exponent([self._paces[call] for call in others if call.guided == like.guided]))


def _exponent(paces: list[Pace]) -> float:
    """With which power of the pixels the time of a step grows, from the smallest and the largest clip; else in
    proportion, which is too little where attention dominates.
    """
    least, most = min(paces, key=lambda pace: pace.voxels), max(paces, key=lambda pace: pace.voxels)
    if most.voxels < 1.5 * least.voxels or min(least.step, most.step) <= 0.0:
        return 1.0
    return min(2.0, max(0.5, math.log(most.step / least.step) / math.log(most.voxels / least.voxels)))


Shares = tuple[float | None, float | None]


def _shares(settings: StudioSettings, known: list[Shortcut], rehearsal: DryRun | None) -> Shares:
    """Shares of the baseline's denoising time and of its evaluations; None where nobody can know."""
    if not settings.recipe.methods():
        return 1.0, 1.0
    same = [each for each in known if (each.recipe, each.steps) == (settings.recipe, settings.steps)]
    if same:
        return same[-1].time, same[-1].evaluations
    alike = [each for each in known if _kinds(each.recipe) == _kinds(settings.recipe)]
    nearest = min(alike, key=lambda each: _distance(each, settings), default=None)
    evaluations = None if rehearsal is None else rehearsal.evaluations(settings)
    if evaluations is not None:
        # What one evaluation costs differs with attention to fewer pairs, so it is taken from a recipe like this one.
        return evaluations * (nearest.time / nearest.evaluations if nearest is not None else 1.0), evaluations
    return (None, None) if nearest is None else (nearest.time, nearest.evaluations)


def _kinds(recipe: Recipe) -> tuple[str, ...]:
    return tuple(type(method).__name__ for method in recipe.methods().values())


def _distance(known: Shortcut, settings: StudioSettings) -> float:
    """How far apart the numbers of two recipes of the same methods, and the steps, are, each relative to its size."""
    total = _apart(known.steps, settings.steps)
    for one, other in zip(known.recipe.methods().values(), settings.recipe.methods().values(), strict=True):
        a, b = one.to_dict(), other.to_dict()
        total += sum(_apart(a[name], b[name]) for name in a)
    return total


def _apart(a: Any, b: Any) -> float:
    numbers = all(isinstance(value, (int, float)) for value in (a, b))
    if a == b:
        return 0.0
    return abs(a - b) / max(abs(a), abs(b)) if numbers else 1.0
