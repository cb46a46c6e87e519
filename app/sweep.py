"""The points of a sweep: settings with other values of some settings, in every combination."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accel import presets
from accel.app import method_schema
from accel.app.limits import Limits
from accel.app.settings import StudioSettings
from accel.recipe import LEVERS, Recipe
from accel.rendering.jobs import DIGITS, digest

PRESET = "recipe.preset"
STEPS = "call.steps"

Axes = Mapping[str, Sequence[Any]]
"""Values by setting: "cache.threshold" is the setting "threshold" of the recipe's cache. "recipe.preset" takes whole
presets, "call.steps" runs the unaccelerated pipeline with fewer steps: the rival that every recipe must beat."""


@dataclass(frozen=True)
class SweepPoint:
    """One combination. `label` says what is special about it."""

    label: str
    settings: StudioSettings

    def changed_fields(self, base: StudioSettings) -> bool:
        """Whether it is another call than that of `base`, so that running it alone has another baseline."""
        return self.settings.baseline_key() != base.baseline_key()

    def key(self, base: StudioSettings) -> str:
        """Names the pair of this point and the baseline of `base`."""
        own = self.settings.key()
        return digest([own, base.baseline_key()])[:DIGITS] if self.changed_fields(base) else own


def points(settings: StudioSettings, axes: Axes, limits: Limits) -> list[SweepPoint]:
    """Every combination of the values, each checked.

    Raises ValueError, in one sentence, for an axis that is no setting of this recipe, a wrong value, or too many
    points.
    """
    if not axes:
        raise ValueError("a sweep needs a setting and its values.")
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
        found.append(SweepPoint(label, _changed(settings, chosen).check(limits)))
    return found


def manifest(settings: StudioSettings, axes: Axes, limits: Limits) -> str:
    """The points as a manifest (JSONL) for `accel render`; the settings themselves where there are no axes."""
    wanted = points(settings, axes, limits) if axes else [SweepPoint("", settings.check(limits))]
    return "".join(json.dumps(point.settings.line(), ensure_ascii=False) + "\n" for point in wanted)


def _changed(settings: StudioSettings, chosen: Mapping[str, Any]) -> StudioSettings:
    """Presets first, because they bring the methods whose settings the others turn."""
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
    lever, _, setting = axis.partition(".")
    if lever not in LEVERS or not setting:
        raise ValueError(
            f"{axis!r} is no setting; write lever.setting, such as cache.threshold, or {PRESET} or {STEPS}."
        )
    method = getattr(recipe, lever)
    if method is None:
        raise ValueError(f"the recipe has no {lever} method, so there is no {setting} to turn; choose a method first.")
    turned: dict[str, Any] = {lever: method_schema.build(lever, type(method).__name__, {setting: value}, like=method)}
    return replace(recipe, **turned, name="", evidence={})


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
