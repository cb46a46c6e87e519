"""The front door: accelerate a pipeline in one call, and give it back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from accel import presets
from accel.anatomy import Anatomy
from accel.caching.calibration.calibration import Calibration
from accel.caching.calibration.fitting import Given, calibrated, calibrations
from accel.components import components_of
from accel.method import Method
from accel.patch import session_of
from accel.precision import automatic
from accel.recipe import LEVERS, Recipe
from accel.session import Session, bare


class _Keep:
    """Says "as in the preset", which None (lever off) does not."""

    def __repr__(self) -> str:
        return "as in the preset"


KEEP: Any = _Keep()


def accelerate(
    pipe: Any,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    *,
    cache: Method | None = KEEP,
    attention: Method | None = KEEP,
    guidance: Method | None = KEEP,
    sampler: Method | None = KEEP,
    precision: Method | Literal["auto"] | None = KEEP,
    resolution: Method | None = KEEP,
    calibration: Given | None = None,
) -> Session:
    """Makes a diffusers pipeline faster in place; go on calling `pipe(...)` as before.

    recipe: a preset ("lossless", "balanced", "fast", "turbo"; default "balanced"), a Recipe, or a recipe's JSON file.
    The keyword levers replace the recipe's; None switches a lever off. precision="auto" is what pays on this machine
    within a preset's promise, or nothing (`accel.precision.automatic`); the recipe names it. A pipeline that is
    accelerated already gets the new recipe. calibration: of this model, from `accel.calibrating(pipe)`, or its file, or
    several of different guidance scales: forecasts are corrected by what was measured, the same steps compute, and the
    recipe keeps it. Where it does not fit this pipeline or the run, a warning and the report say so, and forecasts are
    corrected as for any model.
    Beside a cache of diffusers itself (`pipe.transformer.enable_cache(...)`) take cache=None.
    Undo with `session.restore()`, `accel.restore(pipe)` or by leaving `with accel.accelerate(pipe): ...`; for a while
    with `session.suspended()`.

    Raises TypeError or ValueError, in one sentence, for an object that is not a pipeline, an unknown preset, a
    malformed recipe or a method of the wrong lever; the pipeline is then as it was.
    """
    chosen = recipe if isinstance(recipe, Recipe) else recipe_of(presets.DEFAULT if recipe is None else recipe)
    if precision == "auto":
        promised = presets.PRESETS.get(chosen.name)
        precision = automatic(pipe, promised.decibels if promised else None)
        precision = KEEP if precision is None and chosen.precision is None else precision
    given = dict(zip(LEVERS, (cache, attention, guidance, sampler, precision, resolution), strict=True))
    changed = {lever: method for lever, method in given.items() if method is not KEEP}
    if changed:
        chosen = replace(chosen, **changed, name="", evidence={})
    measured = calibrations(() if calibration is None else calibration)
    chosen = calibrated(chosen, measured) if measured else chosen
    attached = session_of(pipe)
    with bare(pipe):  # where the new session fails, the old one is on again
        session = Session(pipe, chosen)
        if attached is not None:
            attached.restore()
    for caution in _cautions(chosen, session.anatomy, measured):
        warnings.warn(caution, stacklevel=2)
    return session


def _cautions(recipe: Recipe, anatomy: Anatomy, measured: Sequence[Calibration]) -> list[str]:
    """What must be said before the recipe runs on this pipeline."""
    # A method that took the calibration says itself what does not fit.
    own = [why for method in recipe.methods().values() if (why := method.caution(anatomy))]
    misfits = [f"The calibration does not fit this pipeline. {why}" for one in measured if (why := one.misfit(anatomy))]
    caution = presets.caution(recipe, anatomy)
    return [*([caution] if caution else []), *(own or misfits)]


def restore(pipe: Any) -> None:
    """Gives the pipeline back as it was before `accelerate`, bit for bit; does nothing to any other."""
    components_of(pipe)
    session = session_of(pipe)
    if session is not None:
        session.restore()


def recipe_of(recipe: str | os.PathLike[str]) -> Recipe:
    """The preset of this name, or the recipe in this file. Raises what `accelerate` raises."""
    if not isinstance(recipe, (str, os.PathLike)):
        hint = f" (a method alone goes by its lever: {recipe.lever}=...)" if isinstance(recipe, Method) else ""
        raise TypeError(f"A recipe is a preset's name, a Recipe or a JSON file, not {recipe!r}{hint}.")
    if isinstance(recipe, os.PathLike) or recipe.endswith(".json") or (os.sep in recipe and Path(recipe).is_file()):
        return Recipe.load(recipe)
    return presets.resolve(recipe)
