"""Faster Hugging Face diffusers pipelines without retraining, with the evidence shown.

session = accel.accelerate(pipe)     patches the pipeline in place
image = pipe("a corgi surfing")      is used as before, faster
print(session.report())              says what really happened
session.restore()                    gives the untouched pipeline back
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accel.attention import (
    HiDiffusion,
    LowPrecision,
    Radial,
    SageAttention,
    SlidingTile,
    SparseVideoGen,
    TokenMerging,
    TopKBlocks,
    WindowResidual,
)
from accel.caching import (
    FORA,
    PAB,
    AdaCache,
    Align,
    Calibration,
    DBCache,
    DeepCache,
    DiCache,
    EasyCache,
    Extrapolate,
    FirstBlockCache,
    FixedInterval,
    LastOutput,
    LastResidual,
    MagCache,
    OptimalSchedule,
    SeaCache,
    SmoothCache,
    StaticSchedule,
    TeaCache,
    TGate,
    calibrate,
)
from accel.front import accelerate, restore
from accel.recipe import Recipe
from accel.report import Report
from accel.samplers import (
    AdamsBashforth,
    AdaptiveGuidance,
    AlignYourSteps,
    Beta,
    DPMSolver,
    Euler,
    Exponential,
    GuidanceDelta,
    GuidanceInterval,
    Karras,
    LinearAG,
    PseudoCorrector,
    SchedulerSolver,
    Shift,
    SigmaTable,
    Sigmoid,
    Sway,
    UniPC,
    search_sigmas,
)
from accel.session import Session
from accel.version import __version__ as __version__

if TYPE_CHECKING:
    from accel.comparison import compare
    from accel.rendering import render
    from accel.tuning import tune

__all__ = [
    "FORA",
    "PAB",
    "AdaCache",
    "AdamsBashforth",
    "AdaptiveGuidance",
    "Align",
    "AlignYourSteps",
    "Beta",
    "Calibration",
    "DBCache",
    "DPMSolver",
    "DeepCache",
    "DiCache",
    "EasyCache",
    "Euler",
    "Exponential",
    "Extrapolate",
    "FirstBlockCache",
    "FixedInterval",
    "GuidanceDelta",
    "GuidanceInterval",
    "HiDiffusion",
    "Karras",
    "LastOutput",
    "LastResidual",
    "LinearAG",
    "LowPrecision",
    "MagCache",
    "OptimalSchedule",
    "PseudoCorrector",
    "Radial",
    "Recipe",
    "Report",
    "SageAttention",
    "SchedulerSolver",
    "SeaCache",
    "Session",
    "Shift",
    "SigmaTable",
    "Sigmoid",
    "SlidingTile",
    "SmoothCache",
    "SparseVideoGen",
    "StaticSchedule",
    "Sway",
    "TGate",
    "TeaCache",
    "TokenMerging",
    "TopKBlocks",
    "UniPC",
    "WindowResidual",
    "accelerate",
    "calibrate",
    "compare",
    "render",
    "restore",
    "search_sigmas",
    "tune",
]


def __getattr__(name: str) -> Any:
    # Measuring, tuning and rendering need video and image libraries; accelerating does not.
    if name == "compare":
        from accel.comparison import compare

        return compare
    if name == "render":
        from accel.rendering import render

        return render
    if name == "tune":
        from accel.tuning import tune

        return tune
    raise AttributeError(f"module 'accel' has no attribute {name!r}")
