"""Sparse spatial-temporal and low-precision attention.

Every technique is a module below this folder, found by looking: `accel.attention.Radial` is the class of that name.
"""

from typing import Any

from accel import discovery
from accel.attention.layout import TokenLayout
from accel.attention.measuring import measure
from accel.attention.plan import KeyPlan
from accel.attention.planner import SparseAttention

__all__ = ["KeyPlan", "SparseAttention", "TokenLayout", "measure"]

discovery.load(__name__)
__all__ += discovery.names(__name__)


def __getattr__(name: str) -> Any:
    return discovery.technique(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
