"""Sparse spatial-temporal and low-precision attention."""

from accel.attention.layout import TokenLayout
from accel.attention.method import SparseAttention
from accel.attention.plan import Plan
from accel.attention.radial import Radial
from accel.attention.sliding_tile import SlidingTile
from accel.attention.sparse_video_gen import SparseVideoGen
from accel.attention.topk_blocks import TopKBlocks
from accel.attention.window_residual import WindowResidual

__all__ = [
    "Plan",
    "Radial",
    "SlidingTile",
    "SparseAttention",
    "SparseVideoGen",
    "TokenLayout",
    "TopKBlocks",
    "WindowResidual",
]
