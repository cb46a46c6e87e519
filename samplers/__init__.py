"""Step-reducing samplers, sigma schedules and adaptive guidance.

Every technique is in a module below this folder, found by looking: `accel.samplers.UniPC` is the class of that name.
"""

from typing import Any

from accel import discovery
from accel.samplers.guidance.policy import GuidanceMethod
from accel.samplers.sampler import Sampler
from accel.samplers.sigma_search import SigmaSearch, search_sigmas
from accel.samplers.sigmas import Sigmas
from accel.samplers.trained.bank import TrajectoryBank
from accel.samplers.trained.linear_fit import calibrate_linear
from accel.samplers.trained.refiner import Refiner

__all__ = [
    "GuidanceMethod",
    "Refiner",
    "Sampler",
    "SigmaSearch",
    "Sigmas",
    "TrajectoryBank",
    "calibrate_linear",
    "search_sigmas",
]

discovery.load(__name__)
__all__ += discovery.names(__name__)


def __getattr__(name: str) -> Any:
    if name == "train_refiner":
        # Not an AttributeError, of which `from accel.samplers import train_refiner` would not show the sentence.
        raise ImportError(
            "train_refiner is now benchmarks.refiner.training.train_refiner, in a checkout of accel's repository."
        )
    return discovery.technique(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
