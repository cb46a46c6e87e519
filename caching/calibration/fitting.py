"""A recipe made to fit one model: its cache takes from a calibration what it can."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from accel.caching.cache_method import Cache
from accel.caching.calibration.calibration import Calibration
from accel.recipe import Recipe

One = Calibration | str | os.PathLike[str]
Given = One | Iterable[One]
"""A calibration or its file, or several, of different guidance scales."""


def calibrated(recipe: Recipe, calibration: Given) -> Recipe:
    """The recipe with what its cache can take from the calibration: corrections by measured outputs, or constants that
    it has none of. It is still plain data and needs the calibration's file no more. Its name, and so the promise of a
    preset, stays.

    Warns where the cache takes nothing. Raises TypeError for what is no calibration, and ValueError for a file that
    cannot be read or a calibration without what the cache needs.
    """
    cache: Any = recipe.cache
    for one in calibrations(calibration):
        cache = cache.fitted(one) if isinstance(cache, Cache) else cache
    if not isinstance(cache, Cache) or type(cache).fitted is Cache.fitted:
        taker = f"the cache {cache}" if cache is not None else "a recipe without a cache"
        warnings.warn(f"Nothing is taken from the calibration: {taker} has no use for it.", stacklevel=3)
    return replace(recipe, cache=cache)


def calibrations(given: Given) -> list[Calibration]:
    """Each of them, read where it is a file."""
    if isinstance(given, Calibration):
        return [given]
    if isinstance(given, (str, os.PathLike)):
        return [Calibration.load(given)]
    several: Any = given
    if isinstance(several, Mapping) or not isinstance(several, Iterable):
        raise TypeError(f"A calibration is what accel.calibrating or accel.calibrate made, or its file, not {given!r}.")
    return [known for one in several for known in calibrations(one)]
