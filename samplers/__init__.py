"""Step-reducing samplers, sigma schedules and adaptive guidance."""

from accel.samplers.adaptive import AdaptiveGuidance
from accel.samplers.delta import GuidanceDelta
from accel.samplers.fit import calibrate_linear
from accel.samplers.guidance import GuidanceMethod
from accel.samplers.interval import GuidanceInterval
from accel.samplers.linear import LinearAG
from accel.samplers.method import Sampler
from accel.samplers.search import Search, search_sigmas
from accel.samplers.sigmas import (
    AlignYourSteps,
    Beta,
    Exponential,
    Karras,
    Shift,
    Sigmas,
    SigmaTable,
    Sway,
)
from accel.samplers.solvers import AdamsBashforth, DPMSolver, Euler, PseudoCorrector, SchedulerSolver, UniPC

__all__ = [
    "AdamsBashforth",
    "AdaptiveGuidance",
    "AlignYourSteps",
    "Beta",
    "DPMSolver",
    "Euler",
    "Exponential",
    "GuidanceDelta",
    "GuidanceInterval",
    "GuidanceMethod",
    "Karras",
    "LinearAG",
    "PseudoCorrector",
    "Sampler",
    "SchedulerSolver",
    "Search",
    "Shift",
    "SigmaTable",
    "Sigmas",
    "Sway",
    "UniPC",
    "calibrate_linear",
    "search_sigmas",
]
