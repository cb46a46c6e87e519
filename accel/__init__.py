"""Faster Hugging Face diffusers pipelines without retraining, with the evidence shown.

session = accel.accelerate(pipe)     patches the pipeline in place
image = pipe("a corgi surfing")      is used as before, faster
print(session.report())              says what really happened
session.restore()                    gives the untouched pipeline back
print(accel.check(pipe, prompt))     says how fast and how close the preset is on your pipeline

The techniques are in `accel.caching`, `accel.attention`, `accel.samplers`, `accel.precision` and
`accel.resolution`, and have short names here as well: `accel.EasyCache` is `accel.caching.EasyCache`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from accel import spinning  # noqa: F401  in front of all that loads torch

# isort: split
from accel import attention, caching, discovery, precision, resolution, samplers
from accel import autoencoders as autoencoders  # which saved pocket pipelines name
from accel.api import accelerate, restore
from accel.caching import Calibration, calibrate, calibrating
from accel.recipe import Recipe
from accel.report import Report
from accel.samplers import search_sigmas
from accel.session import Session
from accel.version import __version__ as __version__

if TYPE_CHECKING:
    from accel import pocket
    from accel.drafting.best_seed import best_of
    from accel.drafting.drafts import draft
    from accel.drafting.enlarging import enlarge
    from accel.measure.comparison import compare
    from accel.rendering import render
    from accel.self_check import check
    from accel.tuning import tune

__all__ = [
    "Calibration",
    "Recipe",
    "Report",
    "Session",
    "accelerate",
    "attention",
    "best_of",
    "caching",
    "calibrate",
    "calibrating",
    "check",
    "compare",
    "draft",
    "enlarge",
    "pocket",
    "precision",
    "render",
    "resolution",
    "restore",
    "samplers",
    "search_sigmas",
    "tune",
]

# Measuring, tuning and rendering need video and image libraries; accelerating does not.
_LATER = {
    "best_of": "accel.drafting.best_seed",
    "check": "accel.self_check",
    "compare": "accel.measure.comparison",
    "draft": "accel.drafting.drafts",
    "enlarge": "accel.drafting.enlarging",
    "render": "accel.rendering",
    "tune": "accel.tuning",
}


def __getattr__(name: str) -> Any:
    if name == "pocket":
        return import_module("accel.pocket")
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    for folder in (caching, samplers, attention, precision, resolution):
        if name in folder.__all__:
            return getattr(folder, name)
    return discovery.technique(__name__, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
