"""Step-reducing samplers, sigma schedules and adaptive guidance."""

from __future__ import annotations

from typing import Any

from accel.samplers.adaptive import AdaptiveGuidance
from accel.samplers.bank import TrajectoryBank
from accel.samplers.consistency import LCM, TCD, TDD
from accel.samplers.delta import GuidanceDelta
from accel.samplers.exchanged import DiffusersScheduler
from accel.samplers.fit import calibrate_linear
from accel.samplers.flowturbo import FlowTurbo
from accel.samplers.guidance import GuidanceMethod
from accel.samplers.interval import GuidanceInterval
from accel.samplers.linear import LinearAG
from accel.samplers.method import Sampler
from accel.samplers.origin import Origin
from accel.samplers.redi import ReDi
from accel.samplers.refiner import Refiner
from accel.samplers.search import Search, search_sigmas
from accel.samplers.sigmas import (
    AlignYourSteps,
    Beta,
    Exponential,
    Karras,
    Shift,
    Sigmas,
    SigmaTable,
    Sigmoid,
    Sway,
)
from accel.samplers.solvers import AdamsBashforth, DPMSolver, Euler, PseudoCorrector, SchedulerSolver, UniPC
from accel.samplers.switch import ModelSwitch

__all__ = [
    "LCM",
    "TCD",
    "TDD",
    "AdamsBashforth",
    "AdaptiveGuidance",
    "AlignYourSteps",
    "Beta",
    "DPMSolver",
    "DiffusersScheduler",
    "Euler",
    "Exponential",
    "FlowTurbo",
    "GuidanceDelta",
    "GuidanceInterval",
    "GuidanceMethod",
    "Karras",
    "LinearAG",
    "ModelSwitch",
    "Origin",
    "PseudoCorrector",
    "ReDi",
    "Refiner",
    "Sampler",
    "SchedulerSolver",
    "Search",
    "Shift",
    "SigmaTable",
    "Sigmas",
    "Sigmoid",
    "Sway",
    "TrajectoryBank",
    "UniPC",
    "calibrate_linear",
    "search_sigmas",
]


def __getattr__(name: str) -> Any:
    if name == "train_refiner":
        # Not an AttributeError, of which `from accel.samplers import train_refiner` would not show the sentence.
        raise ImportError(
            "train_refiner is now benchmarks.refiner.training.train_refiner, in a checkout of accel's repository."
        )
    raise AttributeError(f"module 'accel.samplers' has no attribute {name!r}")
