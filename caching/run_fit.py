"""What was fitted along a model's own runs, as a recipe keeps it: a few numbers for each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from accel.anatomy import Anatomy
from accel.caching.fitted_sums import FittedPlan, FittedSums, StepSum
from accel.call import DenoiserCall
from accel.method import Method, finite_numbers, nested_method
from accel.update import Array, Deep, Unknown

Rows = tuple[tuple[float, ...], ...]

# Noise levels of the same timetable, and updates of the same solver, agree to so much; both are float32.
SAME = 1e-4


@dataclass(frozen=True)
class RunFit(Method, lever="fit"):
    """The weighted sums of one denoiser for the steps of one timetable, see `FittedSums`.

    Made by `accel.caching.measure` and not by hand. It belongs to a model, a solver, a timetable and a guidance scale:
    with any other the sums would be wrong, so there they are left alone.

    origin: the denoiser's name in the pipeline, its class, what it predicts, and the scheduler. parameters: its size.
    sigmas: the noise levels of the whole timetable and, last, of its end. updates: what the scheduler makes of the
    start and of each output (`LinearUpdates.influence`, last row). first: the position of the first step.
    computed: the positions that compute. weights, ahead: `StepSum`'s of each step and of each that computes. errors: of
    the outputs that were foretold in the fitted runs, relative to their size. guidance: the scale of these runs.
    runs: how many there were. also: the same of another denoiser of the pipeline.
    """

    origin: tuple[str, str, str, str]
    parameters: int
    sigmas: tuple[float, ...]
    updates: tuple[float, ...]
    first: int
    computed: tuple[int, ...]
    weights: Rows
    ahead: Rows
    errors: tuple[float, ...]
    guidance: float | None = None
    runs: int = 1
    _: KW_ONLY
    also: RunFit | None = nested_method(None, "fit")  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weights", "ahead"):
            given: Any = getattr(self, name)
            object.__setattr__(self, name, tuple(tuple(row) if isinstance(row, list) else row for row in given))
        numbers = (self.sigmas, self.updates, self.errors, *self.weights, *self.ahead)
        counts = len(self.computed) == len(self.ahead) == len(self.errors) and all(self.weights)
        if not (all(map(finite_numbers, numbers)) and counts and self._starts_computed()):
            raise ValueError(
                "RunFit is written by accel.caching.measure, and this one has been changed since: measure again."
            )

    def _starts_computed(self) -> bool:
        last = self.first + len(self.weights)
        return self.computed[:1] == (self.first,) and all(self.first <= place < last for place in self.computed)

    def chain(self) -> Iterator[RunFit]:
        """Those of all denoisers."""
        yield self
        if self.also is not None:
            yield from self.also.chain()

    def misfit(self, anatomy: Anatomy) -> str:
        """Why it says nothing about this pipeline, in one clause; "" where it fits."""
        for name, denoiser in anatomy.denoisers.items():
            mine = next((one for one in self.chain() if one.origin[0] == name), None)
            if mine is None:
                return f"the {name} was not measured"
            if (mine.origin[1], mine.parameters) != (denoiser.kind, denoiser.parameters):
                return f"the {name} that was measured is {mine.origin[1]} of {mine.parameters / 1e6:.4g} M parameters"
            if mine.origin[2] != anatomy.prediction:
                return f"the {name} was measured for {mine.origin[2]} prediction"
        return ""

    def sums(self, call: DenoiserCall, span: range, anatomy: Anatomy, rough: float) -> FittedSums:
        """The predictor of a stream that begins with this call and takes the steps of `span`.

        Raises ValueError, in one clause, where the run is another than those that were measured.
        """
        mine = next((one for one in self.chain() if one.origin[0] == call.denoiser), None)
        if mine is None:
            raise ValueError(f"the {call.denoiser} was not measured")
        mine._check(call, span, anatomy)
        table = call.context.table
        times = [table.time_of(sigma) if table is not None else sigma for sigma in call.context.sigmas]
        plan = FittedPlan(frozenset(mine.computed), dict(mine._foretold()), rough)
        return FittedSums(dict(mine._steps(times)), plan)

    def _check(self, call: DenoiserCall, span: range, anatomy: Anatomy) -> None:
        fitted = range(self.first, self.first + len(self.weights))
        levels, known = call.context.sigmas, self.sigmas
        if len(levels) != len(known) or not np.allclose(levels, known, rtol=SAME, atol=SAME):
            raise ValueError(f"it was measured in {len(known) - 1} steps of {self.origin[3]} at other noise levels")
        if span != fitted:
            raise ValueError(f"it was measured from step {fitted.start + 1} to {fitted.stop}")
        scale = anatomy.guidance_scale
        if None not in (scale, self.guidance) and scale != self.guidance:
            raise ValueError(f"it was measured at guidance {self.guidance:g}")
        updates = _last_influence(call)
        if len(updates) != len(self.updates) or not np.allclose(updates, self.updates, rtol=SAME, atol=SAME):
            raise ValueError(f"it was measured with other settings of {self.origin[3]}")

    def _steps(self, times: Sequence[float]) -> Iterator[tuple[float, StepSum]]:
        ahead = dict(zip(self.computed, self.ahead, strict=True))
        for position, weights in enumerate(self.weights, start=self.first):
            before = [place for place in self.computed if place <= position]
            nodes = tuple(times[place] for place in reversed(before[-len(weights) :]))
            yield times[position], StepSum(nodes, weights, ahead.get(position, ()))

    def _foretold(self) -> Iterator[tuple[int, float]]:
        for position, ahead, error in zip(self.computed, self.ahead, self.errors, strict=True):
            if ahead and error > 0:
                yield position, error

    def __str__(self) -> str:
        return f"{len(self.weights)} steps"


def influence_of(call: DenoiserCall) -> Array:
    """`LinearUpdates.influence` of the run, however many outputs an update uses.

    Raises Unknown where the updates are not linear or add noise.
    """
    try:
        updates = call.updates("output")
    except Deep as deep:
        return deep.influence
    if updates.random:
        raise Unknown("its updates add noise")
    return updates.influence


def _last_influence(call: DenoiserCall) -> Sequence[float]:
    """What the run's scheduler makes of the start and of each output; () where that is not known."""
    try:
        return list(influence_of(call)[-1])
    except Unknown:
        return ()
