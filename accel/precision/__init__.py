"""The denoiser's layers in fewer bits, for the time of a session.

Every technique is a module below this folder, found by looking: `accel.precision.BFloat16` is the class of that name.
"""

from typing import Any

from accel import discovery
from accel.precision.choosing import automatic
from accel.precision.measuring import measure
from accel.precision.method import ReducedPrecision

__all__ = ["ReducedPrecision", "automatic", "measure"]

discovery.load(__name__)
__all__ += discovery.names(__name__)


def __getattr__(name: str) -> Any:
    return discovery.technique(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
