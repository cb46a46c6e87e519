"""Timestep feature caching: signal × decider × predictor at the denoiser's boundary."""

from accel.caching.easycache import EasyCache
from accel.caching.interval import FixedInterval
from accel.caching.magcache import MagCache
from accel.caching.method import CacheMethod
from accel.caching.predictor import Extrapolate, LastOutput, LastResidual, Predictor
from accel.caching.recorder import Recording, record
from accel.caching.seacache import SeaCache
from accel.caching.teacache import TeaCache

__all__ = [
    "CacheMethod",
    "EasyCache",
    "Extrapolate",
    "FixedInterval",
    "LastOutput",
    "LastResidual",
    "MagCache",
    "Predictor",
    "Recording",
    "SeaCache",
    "TeaCache",
    "record",
]
