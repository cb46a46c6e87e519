"""Sparse spatial-temporal and low-precision attention."""

from accel.attention.bfloat16 import LowPrecision
from accel.attention.hidiffusion import HiDiffusion
from accel.attention.layout import TokenLayout
from accel.attention.method import SparseAttention
from accel.attention.plan import Plan
from accel.attention.radial import Radial
from accel.attention.sage import SageAttention
from accel.attention.sliding_tile import SlidingTile
from accel.attention.sparse_video_gen import SparseVideoGen
from accel.attention.token_merging import TokenMerging
from accel.attention.topk_blocks import TopKBlocks
from accel.attention.window_residual import WindowResidual

__all__ = [
    "HiDiffusion",
    "LowPrecision",
    "Plan",
    "Radial",
    "SageAttention",
    "SlidingTile",
    "SparseAttention",
    "SparseVideoGen",
    "TokenLayout",
    "TokenMerging",
    "TopKBlocks",
    "WindowResidual",
]
