"""Tuning: the fastest recipe that keeps a measured quality on a model, with the evidence."""

from accel.tuning.front import Interrupted, NotMet, tune
from accel.tuning.goal import Bound

__all__ = ["Bound", "Interrupted", "NotMet", "tune"]
