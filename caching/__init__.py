"""Timestep feature caching: signal × decider × predictor at the denoiser's boundary.

Every technique is a module of this folder, found by looking: `accel.caching.EasyCache` is the class of that name.
"""

from typing import Any

from accel import discovery
from accel.caching.averages import calibrate
from accel.caching.calibration import Calibration
from accel.caching.method import Cache, CacheMethod
from accel.caching.predictor import Predictor
from accel.caching.reuse_method import ReuseMethod

__all__ = ["Cache", "CacheMethod", "Calibration", "Predictor", "ReuseMethod", "calibrate"]

discovery.load(__name__)


def __getattr__(name: str) -> Any:
    return discovery.technique(__name__, name)


def __dir__() -> list[str]:
    return discovery.public(__name__, __all__)
