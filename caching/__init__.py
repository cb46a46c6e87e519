"""Timestep feature caching: signal × policy × predictor at the denoiser's boundary.

Every technique is a module of `methods`, found by looking: `accel.caching.EasyCache` is the class of that name.
"""

from typing import Any

from accel import discovery
from accel.caching.cache_method import Cache, CacheMethod
from accel.caching.calibration.calibrate import calibrate
from accel.caching.calibration.calibration import Calibration
from accel.caching.calibration.fitting import calibrated
from accel.caching.calibration.measuring import measure
from accel.caching.calibration.own_calls import calibrating
from accel.caching.module_reuse import ReuseMethod
from accel.caching.predictor import Predictor

__all__ = [
    "Cache",
    "CacheMethod",
    "Calibration",
    "Predictor",
    "ReuseMethod",
    "calibrate",
    "calibrated",
    "calibrating",
    "measure",
]

discovery.load(__name__)
__all__ += discovery.names(__name__)


def __getattr__(name: str) -> Any:
    return discovery.technique(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
