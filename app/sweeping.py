"""The points of a sweep: settings with other values of some knobs, in every combination."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accel import presets
from accel.app import knobs
from accel.app.limits import Limits
from accel.app.settings import Settings
from accel.recipe import LEVERS, Recipe
from accel.rendering.jobs import DIGITS, digest

PRESET = "recipe.preset"
STEPS = "call.steps"

Axes = Mapping[str, Sequence[Any]]
"""Values by knob: "cache.threshold" is the knob "threshold" of the recipe's cache. "recipe.preset" takes whole presets,
"call.steps" runs the unaccelerated pipeline with fewer steps: the rival that every recipe must beat."""


@dataclass(frozen=True)
class Point:
    """One combination. `label` says what is special about it."""

    label: str
    settings: Settings

    def differs(self, base: Settings) -> bool:
        """Whether it is another call than that of `base`, so that running it alone has another baseline."""
        return self.settings.baseline_key() != base.baseline_key()

    def key(self, base: Settings) -> str:
        """Names the pair of this point and the baseline of `base`."""
        own = self.settings.key()
        return digest([own, base.baseline_key()])[:DIGITS] if self.differs(base) else own


def points(settings: Settings, axes: Axes, limits: Limits) -> list[Point]:
    """Every combination of the values, each checked.

    Raises ValueError, in one sentence, for an axis that is no knob of this recipe, a wrong value, or too many points.
    """
    if not axes:
        raise ValueError("a sweep needs a knob and its values.")
    for axis, given in axes.items():
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise ValueError(f"the values of {axis} must be a list of at least one, not {given!r}.")
    count = 1
    for given in axes.values():
        count *= len(given)
    if count > limits.sweep:
        raise ValueError(f"this sweep has {count} points; this server takes at most {limits.sweep}.")
    found = []
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        label = ", ".join(f"{axis.partition('.')[2]} {_short(value)}" for axis, value in chosen.items())
        found.append(Point(label, _changed(settings, chosen).checked(limits)))
    return found


def manifest(settings: Settings, axes: Axes, limits: Limits) -> str:
    """The points as a manifest (JSONL) for `accel render`; the settings themselves where there are no axes."""
    wanted = points(settings, axes, limits) if axes else [Point("", settings.checked(limits))]
    return "".join(json.dumps(point.settings.job().to_line(), ensure_ascii=False) + "\n" for point in wanted)


def _changed(settings: Settings, chosen: Mapping[str, Any]) -> Settings:
    """Presets first, because they bring the methods whose knobs the others turn."""
    for axis, value in sorted(chosen.items(), key=lambda item: item[0] != PRESET):
        if axis == PRESET:
            settings = replace(settings, recipe=_preset(value))
        elif axis == STEPS:
            settings = replace(settings, steps=value, recipe=Recipe(name="off"))
        else:
            settings = replace(settings, recipe=_turned(settings.recipe, axis, value))
    return settings


def _preset(name: Any) -> Recipe:
    return Recipe(name="off") if name == "off" else presets.resolve(str(name))


def _turned(recipe: Recipe, axis: str, value: Any) -> Recipe:
    lever, _, knob = axis.partition(".")
    if lever not in LEVERS or not knob:
        raise ValueError(f"{axis!r} is no knob; write lever.knob, such as cache.threshold, or {PRESET} or {STEPS}.")
    method = getattr(recipe, lever)
    if method is None:
        raise ValueError(f"the recipe has no {lever} method, so there is no {knob} to turn; choose a method first.")
    turned: dict[str, Any] = {lever: knobs.build(lever, type(method).__name__, {knob: value}, like=method)}
    return replace(recipe, **turned, name="", evidence={})


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
