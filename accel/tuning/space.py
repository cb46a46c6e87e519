"""What the tuner chooses from: structures (which method stands at each lever) and one dial, how much is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

from accel.anatomy import Anatomy
from accel.caching.cache_method import Cache
from accel.caching.calibration.calibration import Calibration
from accel.lever import InactiveLever
from accel.method import Method
from accel.recipe import Recipe

LEVERS = ("cache", "attention", "guidance", "sampler", "precision", "resolution")
# Those that keep the picture, so that they may keep a bound: at another size it is another picture.
KEEPING = LEVERS[:-1]
# Those whose methods say only in a run that they do nothing, when they see tokens and sizes.
SEEN_IN_A_RUN = ("attention", "precision", "resolution")
# Fewer computed steps than these are no forecasts any more.
LEAST_COMPUTED = 5


def settings(lever: str) -> list[Method]:
    """The settings to try of each technique of a lever, by the technique's name."""
    kinds = sorted(Method.registry[lever].items())
    return [method for _, kind in kinds for method in kind.for_tuning()]


def caches() -> dict[str, Cache]:
    """The caches that have a dial, by name; those that measure nothing first."""
    found = {type(method).__name__: method for method in settings("cache") if isinstance(method, Cache)}
    return dict(sorted(found.items(), key=lambda item: not item[1].data_free))


@dataclass(frozen=True)
class Structure:
    """One method at each lever; the cache by its name, because the dial belongs to it ("" is none)."""

    cache: str = ""
    guidance: Method | None = None
    sampler: Method | None = None
    attention: Method | None = None
    precision: Method | None = None
    resolution: Method | None = None

    def others(self) -> dict[str, Method]:
        """The levers besides the cache that are on."""
        named: dict[str, Method | None] = {part.name: getattr(self, part.name) for part in fields(self)[1:]}
        return {lever: method for lever, method in named.items() if method is not None}

    def names(self) -> tuple[str, ...]:
        """What it is made of, by the names that factors are learned for."""
        caches = (f"cache {self.cache}",) if self.cache else ()
        return (*caches, *(f"{lever} {method}" for lever, method in self.others().items()))

    def __str__(self) -> str:
        return " + ".join([*([self.cache] if self.cache else []), *map(str, self.others().values())]) or "off"


@dataclass(frozen=True)
class Candidate:
    """A structure with its dial: the share of its steps that compute, 1 without a cache."""

    structure: Structure
    compute: float = 1.0

    def __str__(self) -> str:
        return f"{self.structure}" + (f" at {self.compute:.2f}" if self.structure.cache else "")


@dataclass(frozen=True)
class Space:
    """The choices that this pipeline has at each lever, and why it does not have the others."""

    caches: tuple[str, ...]
    others: Mapping[str, tuple[Method, ...]]  # by lever
    steps: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    def structures(self) -> list[Structure]:
        """All of them. Caches that decide by measuring are not combined with samplers: thresholds are tuned on the
        recorded step count."""
        measuring = {name for name, method in caches().items() if not method.data_free}
        choices = [(None, *self.others.get(part.name, ())) for part in fields(Structure)[1:]]
        found = [Structure(cache, *chosen) for cache in ("", *self.caches) for chosen in product(*choices)]
        return [s for s in found if s != Structure() and not (s.cache in measuring and s.sampler is not None)]

    def dials(self, structure: Structure) -> list[float]:
        """The settings of its dial, from high to low: some above a half, below that one computed step apart."""
        if not structure.cache:
            return [1.0]
        steps = self.steps_of(structure)
        low, middle = min(LEAST_COMPUTED, steps - 2), steps // 2
        coarse = range(steps - 2, middle, -max(steps // 10, 1))
        return [count / steps for count in [*coarse, *range(max(middle, low), max(low, 1) - 1, -1)]]

    def steps_of(self, structure: Structure) -> int:
        """How many steps it runs."""
        share = getattr(structure.sampler, "steps", 1.0)
        return max(round(self.steps * share), 1)

    def without(self, lever: str, method: Method, why: str) -> Space:
        """The space without a choice that turned out to do nothing here."""
        kept = tuple(other for other in self.others[lever] if other != method)
        return replace(self, others={**self.others, lever: kept}, left_out={**self.left_out, str(method): why})


def space_of(
    anatomy: Anatomy, calibration: Calibration | None, steps: int, guided: bool, levers: Sequence[str], generic: bool
) -> Space:
    """The choices that can act on this pipeline at all.

    guided: whether classifier-free guidance is on. levers: those to choose from. generic: only methods without
    constants of the model, for recipes that are to go with other models.
    """
    left_out: dict[str, str] = {}
    constants = None if generic else calibration
    known = caches() if "cache" in levers else {}
    dialled = tuple(
        name for name, method in known.items() if _dialled(name, method, constants, steps, anatomy, left_out)
    )
    chosen = {lever: settings(lever) if guided or lever != "guidance" else [] for lever in LEVERS[1:]}
    if not guided:
        left_out["guidance"] = "classifier-free guidance is off, so there is no second pass to save"
    able = {
        lever: tuple(method for method in methods if lever in levers and _able(method, anatomy, left_out))
        for lever, methods in chosen.items()
    }
    return Space(dialled, able, steps, left_out)


class Recipes:
    """Makes recipes of candidates, for one calibration and runs of `steps` steps."""

    def __init__(self, calibration: Calibration | None, steps: int) -> None:
        self.calibration, self.steps = calibration, steps
        self._caches: dict[tuple[str, float, int], Method | None] = {}

    def of(self, candidate: Candidate, name: str = "") -> Recipe | None:
        """None where the cache cannot compute as little."""
        structure = candidate.structure
        methods: dict[str, Any] = dict(structure.others())
        if structure.cache:
            kept = max(round(self.steps * getattr(structure.sampler, "steps", 1.0)), 1)
            key = (structure.cache, candidate.compute, kept)
            if key not in self._caches:
                self._caches[key] = self._cache(*key)
            if self._caches[key] is None:
                return None
            methods["cache"] = self._caches[key]
        return Recipe(**methods, name=name)

    def _cache(self, name: str, share: float, steps: int) -> Method | None:
        try:
            return caches()[name].at_share(share, self.calibration, steps)
        except ValueError:  # its own guards compute more than that
            return None


def _able(method: Method, anatomy: Anatomy, left_out: dict[str, str], name: str = "") -> bool:
    """Whether the method finds anything to act on; why not goes to `left_out`, under its name if it has one there."""
    lever = method.build(anatomy)
    if isinstance(lever, InactiveLever):
        left_out[name or str(method)] = lever.reason
    return not isinstance(lever, InactiveLever)


def _dialled(
    name: str,
    method: Cache,
    calibration: Calibration | None,
    steps: int,
    anatomy: Anatomy,
    left_out: dict[str, str],
) -> bool:
    """Whether the cache can be set to a speed, with the calibration if there is one, and acts here; why not goes to
    `left_out`.
    """
    try:
        found = method.at_share(1.0, calibration, steps)
    except ValueError as error:
        left_out[name] = str(error)
        return False
    return _able(found, anatomy, left_out, name)
