"""Measures which attention kernel is fastest on this machine, once, when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from accel.attention.low_precision import LowPrecisionAttention
from accel.attention.planner import SparseAttention
from accel.attention.verdicts import Stopwatch, timing
from accel.recipe import Recipe
from accel.session import Session, bare

M = TypeVar("M", SparseAttention, LowPrecisionAttention)


def measure(pipe: Any, call: Callable[[Any], object], method: M) -> M:
    """The method with what was measured in it: take it for a recipe, and save that.

    call: `call(pipe)` runs the pipeline as it is going to be used; one step of each kind (dense, sparse) will do. At
    the first attention of every sequence and density, each kernel that passes its tests and the model's own attention
    are timed, five times in turn. From then on the fastest is used there, and the model's own where that was it; where
    nothing was measured, or on another device or other versions, the order and the limits are the fixed ones.
    Nothing else should be running. The session of an accelerated pipeline is suspended meanwhile.

    Raises ValueError where the call asks for no attention that the method could compute.
    """
    trial = _with(method, min_tokens=0, measured=())
    with bare(pipe), timing(Stopwatch()) as watch, Session(pipe, Recipe(attention=trial)) as session:
        call(pipe)
        said = "; ".join(lever.reason for lever in session.report().levers)
    written = watch.written()
    if not written:
        raise ValueError(f"No attention was measured, because the call asked for none that {method} computes: {said}.")
    return _with(method, measured=written)


def _with(method: M, **settings: Any) -> M:
    """The method with these settings, and so the one within it."""
    within = getattr(method, "sparse", None)
    inside: dict[str, Any] = {} if within is None else {"sparse": replace(within, **settings)}
    return replace(method, **settings, **inside)
