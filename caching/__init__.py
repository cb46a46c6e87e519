"""Timestep feature caching: signal × decider × predictor at the denoiser's boundary."""

from accel.caching.adacache import AdaCache
from accel.caching.averages import calibrate
from accel.caching.calibration import Calibration
from accel.caching.dbcache import DBCache
from accel.caching.deepcache import DeepCache
from accel.caching.dicache import Align, DiCache
from accel.caching.easycache import EasyCache
from accel.caching.extrapolate import Extrapolate
from accel.caching.firstblock import FirstBlockCache
from accel.caching.fora import FORA
from accel.caching.interval import FixedInterval
from accel.caching.magcache import MagCache
from accel.caching.method import CacheMethod
from accel.caching.pab import PAB
from accel.caching.predictor import LastOutput, LastResidual, Predictor
from accel.caching.reuse_method import ReuseMethod
from accel.caching.seacache import SeaCache
from accel.caching.smoothcache import SmoothCache
from accel.caching.static import OptimalSchedule, StaticSchedule
from accel.caching.teacache import TeaCache
from accel.caching.tgate import TGate

__all__ = [
    "FORA",
    "PAB",
    "AdaCache",
    "Align",
    "CacheMethod",
    "Calibration",
    "DBCache",
    "DeepCache",
    "DiCache",
    "EasyCache",
    "Extrapolate",
    "FirstBlockCache",
    "FixedInterval",
    "LastOutput",
    "LastResidual",
    "MagCache",
    "OptimalSchedule",
    "Predictor",
    "ReuseMethod",
    "SeaCache",
    "SmoothCache",
    "StaticSchedule",
    "TGate",
    "TeaCache",
    "calibrate",
]
