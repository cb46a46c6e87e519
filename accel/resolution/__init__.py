"""The size at which the denoiser is evaluated.

Every technique is a module below this folder, found by looking: `accel.resolution.CoarseToFine` is the class of that
name.
"""

from typing import Any

from accel import discovery
from accel.resolution.measuring import measure

__all__ = ["measure"]

discovery.load(__name__)
__all__ += discovery.names(__name__)


def __getattr__(name: str) -> Any:
    return discovery.technique(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
