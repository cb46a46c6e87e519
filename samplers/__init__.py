"""Step-reducing samplers, sigma schedules and adaptive guidance.

Every technique is in a module of this folder, found by looking: `accel.samplers.UniPC` is the class of that name.
"""

from typing import Any

from accel import discovery
from accel.samplers.bank import TrajectoryBank
from accel.samplers.fit import calibrate_linear
from accel.samplers.guidance import GuidanceMethod
from accel.samplers.method import Sampler
from accel.samplers.refiner import Refiner
from accel.samplers.refiner_training import train_refiner
from accel.samplers.search import Search, search_sigmas
from accel.samplers.sigmas import Sigmas

__all__ = [
    "GuidanceMethod",
    "Refiner",
    "Sampler",
    "Search",
    "Sigmas",
    "TrajectoryBank",
    "calibrate_linear",
    "search_sigmas",
    "train_refiner",
]

discovery.load(__name__)


def __getattr__(name: str) -> Any:
    return discovery.technique(__name__, name)


def __dir__() -> list[str]:
    return discovery.public(__name__, __all__)
