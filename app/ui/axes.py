"""What a sweep can vary, which values suit it, and how typed values are read."""

from __future__ import annotations

from typing import Any

from accel import presets
from accel.app import method_schema
from accel.app.settings import StudioSettings
from accel.app.sweep import PRESET, STEPS
from accel.recipe import Recipe

_FACTORS = (0.4, 0.7, 1.0, 1.5, 2.2)
_SHARES = (0.75, 0.5, 0.35, 0.25)


def axes_of(recipe: Recipe) -> list[tuple[str, str]]:
    """(words, axis) of what can be swept: presets, the recipe's numbers (deciding ones first), fewer steps."""
    found = [
        (f"{type(method).__name__}: {setting.name}", f"{lever}.{setting.name}", not setting.first)
        for lever, method in recipe.methods().items()
        for setting in method_schema.methods(lever).get(type(method).__name__, ())
        if setting.kind in ("number", "integer")
    ]
    found.sort(key=lambda item: item[2])
    turned = [(words, axis) for words, axis, _ in found]
    return [("presets", PRESET), *turned, ("fewer steps, unaccelerated", STEPS)]


def suggest_values(settings: StudioSettings, axis: str) -> str:
    """Values around the present one, as text for `parse_values`."""
    if axis == PRESET:
        return ", ".join(presets.PRESETS)
    if axis == STEPS:
        return ", ".join(str(max(1, round(settings.steps * share))) for share in _SHARES)
    lever, _, name = axis.partition(".")
    method = getattr(settings.recipe, lever, None)
    setting = next(
        (each for each in method_schema.methods(lever).get(type(method).__name__, ()) if each.name == name), None
    )
    value = getattr(method, name, None)
    if setting is None or not isinstance(value, (int, float)):
        return ""
    inside = [
        min(setting.most if setting.most is not None else number, number) for number in (value * f for f in _FACTORS)
    ]
    whole = setting.kind == "integer"
    numbers = [max(setting.least or 0, round(number) if whole else round(number, 4)) for number in inside]
    return ", ".join(f"{number:g}" for number in dict.fromkeys(numbers))


def parse_values(text: str) -> list[Any]:
    """The values in "0.1, 0.2" or "fast, turbo". Raises ValueError where there are none."""
    values = [_value(word.strip()) for word in text.replace(";", ",").split(",") if word.strip()]
    if not values:
        raise ValueError('a sweep needs values, such as "0.1, 0.2, 0.4".')
    return values


def _value(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
