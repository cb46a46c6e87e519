"""Which variants a comparison runs, and which of them take turns: recipes, and fewer steps in the time of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from accel.measure.measurements import BASELINE, Variant, free_label
from accel.measure.rows import ResultRow
from accel.method import Method
from accel.recipe import Recipe

GROUP = 6  # variants that take turns: with more, a machine may have changed between a run and its baseline's


def contestants_of(recipes: Sequence[Any], steps: int) -> list[Variant]:
    """The unaccelerated pipeline and, after it, each recipe. Raises ValueError or TypeError for what `accel.compare`
    does not take, such as two recipes of one label.
    """
    found = [Variant(BASELINE, "baseline", steps, Recipe())]
    taken = {BASELINE}
    for entry in recipes:
        label, recipe = entry if isinstance(entry, tuple) and len(entry) == 2 else (_label(entry), entry)
        if not isinstance(label, str) or not label:
            raise ValueError(f"a recipe's label must be a string, not {label!r}.")
        if label in taken:
            raise ValueError(f"two recipes are called {label!r}; give each its own label with (label, recipe).")
        taken.add(label)
        found.append(Variant(label, "other" if callable(recipe) else "recipe", steps, _as_recipe(recipe)))
    return found


def _as_recipe(recipe: Any) -> Any:
    """A single method stands for the recipe with only this lever."""
    if recipe is None:
        raise TypeError(
            "a recipe is a preset, a Recipe, a method or a file, not None; with all levers off: accel.Recipe()."
        )
    if not isinstance(recipe, Method):
        return recipe
    levers: dict[str, Any] = {recipe.lever: recipe}
    return Recipe(**levers)


def _label(entry: Any) -> str:
    if isinstance(entry, (str, Path)):
        return Path(entry).stem
    return str(getattr(entry, "label", entry))


def explicit_counts(fewer_steps: bool | Sequence[int]) -> list[int]:
    """The counts that were asked for by number, each once. Raises ValueError for what is no count."""
    if isinstance(fewer_steps, bool):
        return []
    counts = list(dict.fromkeys(fewer_steps))
    if not all(type(count) is int and count >= 1 for count in counts):
        raise ValueError(f"fewer_steps must be True, False or a list of whole numbers from 1, not {fewer_steps!r}.")
    return counts


def fewer_steps_of(counts: Iterable[int], others: Sequence[Variant]) -> list[Variant]:
    """The unaccelerated pipeline in each of these counts of steps, under labels that none of the others has."""
    taken = [one.label for one in others]
    return [Variant(free_label(f"{steps} steps", taken), "fewer_steps", steps, Recipe()) for steps in counts]


def equal_time_counts(rows: Sequence[ResultRow], steps: int, least: int = 1) -> dict[int, list[str]]:
    """For each count of steps, none below `least`, the recipes that take as long.

    The denoise-only speed-up decides: text encoding and decoding take the same time with any number of steps,
    so this is the count that makes the end-to-end times equal.
    """
    counts: dict[int, list[str]] = {}
    for row in rows:
        count = max(least, round(steps / row.denoise_speedup))
        if row.kind in ("recipe", "other") and count < steps:
            counts.setdefault(count, []).append(row.label)
    return counts


def groups_of(contestants: Sequence[Variant], together: Sequence[set[str]]) -> list[list[Variant]]:
    """The baseline with those that are compared with each other, or at most `GROUP` of the others, so that no run is
    far from the one that it is held against."""
    baseline, *others = contestants
    found = [[one for one in others if one.label in labels] for labels in together]
    rest = [one for one in others if not any(one.label in labels for labels in together)]
    return [[baseline, *group] for group in [*found, *(rest[at : at + GROUP] for at in range(0, len(rest), GROUP))]]
