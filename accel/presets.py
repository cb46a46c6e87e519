"""Presets are promises about fidelity to the unaccelerated output; they resolve to a recipe for this pipeline."""

from __future__ import annotations

from dataclasses import dataclass, replace

from accel.caching import OptimalSchedule
from accel.plain import told
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
        Recipe(cache=OptimalSchedule(0.66, fewest=20)),
    ),
    "balanced": Preset(
        "about 30 dB",
        Recipe(cache=OptimalSchedule(0.42, fewest=16)),
    ),
    "fast": Preset(
        "about 24 dB",
        Recipe(cache=OptimalSchedule(0.38, fewest=13)),
    ),
    "turbo": Preset(
        "the picture may differ; prompt adherence and quality may not",
        Recipe(cache=OptimalSchedule(0.22, fewest=10)),
    ),
}


def resolve(name: str) -> Recipe:
    """The preset's recipe. Raises ValueError, listing the presets, for an unknown name."""
    if name not in PRESETS:
        raise ValueError(
            f"There is no preset or recipe file {told(name)}; the presets are {', '.join(PRESETS)}, "
            f"and a recipe file ends in .json."
        )
    return replace(PRESETS[name].recipe, name=name)
