"""Presets are promises about fidelity to the unaccelerated output; they resolve to a recipe for this pipeline."""

from __future__ import annotations

from dataclasses import dataclass, replace

from accel.anatomy import Anatomy
from accel.caching.methods.schedules import OptimalSchedule
from accel.plain_data import quote
from accel.recipe import Recipe

DEFAULT = "balanced"


@dataclass(frozen=True)
class Preset:
    """A name, what it promises, and the recipe that keeps the promise for a model without calibrated constants."""

    promise: str
    recipe: Recipe


PRESETS = {
    "lossless": Preset(
        "above 40 dB against the unaccelerated output",
        Recipe(cache=OptimalSchedule(0.66, fewest=20, careful=0.5)),
    ),
    "balanced": Preset(
        "about 30 dB",
        Recipe(cache=OptimalSchedule(0.42, fewest=16, careful=0.5)),
    ),
    "fast": Preset(
        "about 24 dB",
        Recipe(cache=OptimalSchedule(0.38, fewest=13, careful=0.5)),
    ),
    "turbo": Preset(
        "the picture may differ; prompt adherence and quality may not",
        Recipe(cache=OptimalSchedule(0.22, fewest=10, careful=0.5)),
    ),
}


def resolve(name: str) -> Recipe:
    """The preset's recipe. Raises ValueError, listing the presets, for an unknown name."""
    if name not in PRESETS:
        raise ValueError(
            f"There is no preset or recipe file {quote(name)}; the presets are {', '.join(PRESETS)}, "
            f"and a recipe file ends in .json."
        )
    return replace(PRESETS[name].recipe, name=name)


def caution(recipe: Recipe, anatomy: Anatomy) -> str | None:
    """What must be said before a preset runs on this pipeline: that and why it promises nothing; None where it does."""
    if recipe.name not in PRESETS or anatomy.corrects_in_full:
        return None
    reasons = {name: anatomy.uncorrectable[name] for name in anatomy.schedulers if anatomy.uncorrectable[name]}
    scheduler, why = next(iter(reasons.items()), (next(iter(anatomy.schedulers)), ""))
    if not anatomy.leveled:
        why = why or "it does not say at which noise levels its steps are"
    if anatomy.twice:
        why = why or "it evaluates noise levels twice"
    why = why or ("its updates add noise" if anatomy.random else f"its updates use {anatomy.depth} outputs")
    return (
        f"Under {anatomy.schedulers[scheduler]} what skipped steps get wrong cannot be made up for in full, because "
        f"{why}: the preset {recipe.name} computes more steps there and promises nothing. accel.compare measures what "
        f"it gives."
    )
