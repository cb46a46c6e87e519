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
    """A promise, in words and in decibels of PSNR against the unaccelerated output (None: no PSNR is promised),
    and the recipe that keeps the promise for a model without calibrated constants.
    """

    words: str
    decibels: float | None
    recipe: Recipe

    @property
    def promise(self) -> str:
        """The words, with the decibels in them."""
        return self.words.format(self.decibels)

    def kept(self, psnr: float) -> bool | None:
        """Whether `psnr`, in whole decibels as it is shown, is what was promised; None where no PSNR is promised."""
        return None if self.decibels is None else round(psnr) >= self.decibels


PRESETS = {
    "lossless": Preset(
        "above {:g} dB against the unaccelerated output",
        40.0,
        Recipe(cache=OptimalSchedule(0.62, guard=0.25, fewest=23, careful=0.5)),
    ),
    "balanced": Preset(
        "about {:g} dB",
        30.0,
        Recipe(cache=OptimalSchedule(0.34, guard=0.25, fewest=16, careful=0.5)),
    ),
    "fast": Preset(
        "about {:g} dB",
        24.0,
        Recipe(cache=OptimalSchedule(0.25, guard=0.4, fewest=12, dense=1, careful=0.5)),
    ),
    "turbo": Preset(
        "the picture may differ; prompt adherence and quality may not",
        None,
        Recipe(cache=OptimalSchedule(0.22, guard=0.6, fewest=10, careful=0.5)),
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
    """The warning before a preset runs on this pipeline: that it promises nothing, and why; None where it promises."""
    why = doubt(recipe, anatomy)
    if why is None:
        return None
    return (
        f"{why[0].upper()}{why[1:]}: the preset {recipe.name} computes more steps there and promises nothing. "
        f"accel.check measures what it gives."
    )


def doubt(recipe: Recipe, anatomy: Anatomy) -> str | None:
    """Why a preset promises nothing on this pipeline; None where it does, and for recipes that are no preset."""
    if recipe.name not in PRESETS or anatomy.corrects_in_full:
        return None
    reasons = {name: anatomy.uncorrectable[name] for name in anatomy.schedulers if anatomy.uncorrectable[name]}
    scheduler, why = next(iter(reasons.items()), (next(iter(anatomy.schedulers)), ""))
    if not anatomy.leveled:
        why = why or "it does not say at which noise levels its steps are"
    if anatomy.twice:
        why = why or "it evaluates noise levels twice"
    why = why or ("its updates add noise" if anatomy.random else f"its updates use {anatomy.depth} outputs")
    wrong = "what skipped steps get wrong cannot be made up for in full"
    return f"under {anatomy.schedulers[scheduler]} {wrong}, because {why}"
