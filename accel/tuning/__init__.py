"""Tuning: the fastest recipe that keeps a measured quality on a model, with the evidence."""

from accel.tuning.api import GoalNotMet, TuningInterrupted, tune
from accel.tuning.goal import Bound
from accel.tuning.models import ModelChoice, ModelFront
from accel.tuning.route import Route

__all__ = ["Bound", "GoalNotMet", "ModelChoice", "ModelFront", "Route", "TuningInterrupted", "tune"]
