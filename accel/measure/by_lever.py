"""What each lever of a recipe saves, measured: the recipe without it, and it alone, beside the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from accel.api import recipe_of
from accel.measure.measurements import BASELINE, Sample, Variant, free_label
from accel.measure.metrics import MAX_PSNR
from accel.measure.tables import empty_table, with_sign
from accel.recipe import Recipe
from accel.terminal import one_line, plain

if TYPE_CHECKING:
    from rich.table import Table

    from accel.measure.results import Comparison
    from accel.measure.rows import ResultRow


class Apart(NamedTuple):
    """The labels of the variants that show one lever: the recipe without it, and it alone."""

    without: str
    alone: str


LeversApart = dict[str, dict[str, Apart]]
"""By recipe and lever."""


@dataclass(frozen=True)
class LeverSaving:
    """One lever of one recipe.

    saved: by phase, and in "all", how many seconds more the recipe takes without it: beside the others it saves less
    than alone where they save the same steps, and what all of a recipe save is not the sum of these. It is the median
    over the runs that stood beside each other, saved_range the least and the most of them. saved_alone: the seconds
    that it takes off the unaccelerated pipeline. decibels_without, decibels: PSNR (SNR of sound) of the recipe without
    it and with it; decibels_alone: its own. None where nothing differs from the unaccelerated output.
    """

    recipe: str
    lever: str
    without: str
    alone: str
    saved: dict[str, float]
    saved_range: tuple[float, float]
    saved_alone: dict[str, float]
    decibels_without: float | None
    decibels: float | None
    decibels_alone: float | None

    @property
    def cost(self) -> float | None:
        """The decibels that it costs beside the others; None where the rest is exact."""
        if self.decibels is None or self.decibels_without is None:
            return None
        return self.decibels_without - self.decibels


def taken_apart(variants: Sequence[Variant]) -> tuple[list[Variant], LeversApart]:
    """The variants, each recipe followed by what shows its levers, and which these are.

    A part that is among the variants already does not run twice: of two levers each is the other's rest, and the rest
    of a single one is the unaccelerated pipeline. Raises what `accelerate` raises for a recipe that is none.
    """
    recipes = {one.label: _recipe(one.recipe) for one in variants if one.kind in ("baseline", "recipe")}
    known = [(recipe, label) for label, recipe in recipes.items()]
    found: list[Variant] = []
    apart = LeversApart()

    def label_of(part: Recipe, name: str) -> str:
        same = next((label for recipe, label in known if recipe == part), None)
        if same is None:
            name = free_label(name, [one.label for one in (*variants, *found)])
            known.append((part, name))
            found.append(Variant(name, "part", variants[0].steps, part))
        return same or name

    for variant in variants:
        found.append(variant)
        label, whole = variant.label, recipes.get(variant.label, Recipe())
        for lever, method in whole.methods().items():
            off: dict[str, Any] = {lever: None}
            on: dict[str, Any] = {lever: method}
            apart.setdefault(label, {})[lever] = Apart(
                label_of(replace(whole, **off, name="", evidence={}), f"{label} without {lever}"),
                label_of(Recipe(**on), f"{lever} of {label} alone"),
            )
    return found, apart


def families(apart: LeversApart) -> list[set[str]]:
    """Labels of the recipes whose parts are compared with each other, and of these: what must run side by side."""
    found: list[set[str]] = []
    for label, levers in apart.items():
        family = {label, *(name for pair in levers.values() for name in pair)} - {BASELINE}
        touching = [other for other in found if other & family]
        found = [other for other in found if not other & family] + [family.union(*touching)]
    return [family for family in found if len(family) > 1]


def lever_savings(comparison: Comparison) -> list[LeverSaving]:
    """Of every lever whose runs are complete."""
    rows = {row.label: row for row in comparison.rows}
    return [
        _saving(comparison, label, lever, pair)
        for label, levers in comparison.apart.items()
        for lever, pair in levers.items()
        if {label, *pair} <= rows.keys()
    ]


def _saving(comparison: Comparison, label: str, lever: str, pair: Apart) -> LeverSaving:
    saved, alone = _differences(comparison, pair.without, label), _differences(comparison, BASELINE, pair.alone)
    rows = map(comparison.row, (pair.without, label, pair.alone))
    return LeverSaving(
        label, lever, *pair, _medians(saved), (min(saved["all"]), max(saved["all"])), _medians(alone),
        *map(_decibels, rows),
    )  # fmt: skip


def _differences(comparison: Comparison, slow: str, fast: str) -> dict[str, list[float]]:
    """By phase, and in all, how many seconds more the first took in each round in which both ran."""
    rounds: dict[tuple[int, int, int, int], dict[str, Sample]] = {}
    for sample in comparison.samples:
        rounds.setdefault((sample.batch, sample.prompt, sample.seed, sample.repeat), {})[sample.label] = sample
    found: dict[str, list[float]] = {}
    for each in rounds.values():
        if slow in each and fast in each:
            ours = each[fast].phases
            for phase, seconds in each[slow].phases.items():
                found.setdefault(phase, []).append(seconds - ours[phase])
            found.setdefault("all", []).append(each[slow].seconds - each[fast].seconds)
    return found


def _medians(differences: dict[str, list[float]]) -> dict[str, float]:
    return {phase: median(seconds) for phase, seconds in differences.items()}


def _decibels(row: ResultRow) -> float | None:
    return None if row.decibels is None or row.decibels >= MAX_PSNR else row.decibels


def _recipe(recipe: Any) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else recipe_of(recipe)


TITLE = "What each lever saved"
CAPTION = (
    "seconds by phase that the recipe takes longer without the lever, in brackets least and most of single runs; "
    "alone: the seconds that it takes off the unaccelerated pipeline. Levers that save the same steps save less "
    "beside each other than alone, so these do not add up."
)


def lever_cells(saving: LeverSaving) -> dict[str, str]:
    """What a table says of one lever, by column."""
    phases = {phase: with_sign(seconds, 2) for phase, seconds in saving.saved.items() if phase != "all"}
    least, most = (with_sign(seconds, 2) for seconds in saving.saved_range)
    spread = f" [{least}, {most}]" if least != most else ""
    return {
        **phases,
        "in all": f"{with_sign(saving.saved['all'], 2)}{spread}",
        "dB": f"{_exact(saving.decibels_without)} to {_exact(saving.decibels)}",
        "alone": with_sign(saving.saved_alone["all"], 2),
        "alone, dB": _exact(saving.decibels_alone),
    }


def levers_table(comparison: Comparison) -> Table:
    """The savings as a table for the terminal; without rows where `by_lever` was off."""
    table, savings = empty_table(TITLE, CAPTION), lever_savings(comparison)
    for name in ("recipe", "lever", *(lever_cells(savings[0]) if savings else ())):
        table.add_column(name, justify="left" if name in ("recipe", "lever") else "right", no_wrap=True)
    for saving in savings:
        cells = (one_line(saving.recipe), saving.lever, *lever_cells(saving).values())
        table.add_row(*map(plain, cells))
    return table


def _exact(decibels: float | None) -> str:
    return "exact" if decibels is None else f"{decibels:.1f}"
