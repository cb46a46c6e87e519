"""Tuning: the fastest recipe that keeps a measured quality on a model, with the evidence."""

from accel.tuning.api import GoalNotMet, TuningInterrupted, tune
from accel.tuning.goal import Bound

__all__ = ["Bound", "GoalNotMet", "TuningInterrupted", "tune"]
