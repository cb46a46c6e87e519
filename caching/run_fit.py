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
from accel.update import Array, Deep, LinearUpdates, Unknown

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
    the outputs that were foretold in the fitted runs, relative to their size. guidance: the numbers for guidance in the
    calls of these runs, by name (`guidance_asked`). runs: how many there were. also: the same of another denoiser of
    the pipeline.
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
    guidance: tuple[tuple[str, float], ...] = ()
    runs: int = 1
    _: KW_ONLY
    also: RunFit | None = nested_method(None, "fit")  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weights", "ahead", "guidance"):
            given: Any = getattr(self, name)
            if isinstance(given, tuple):
                object.__setattr__(self, name, tuple(tuple(row) if isinstance(row, list) else row for row in given))
        if not (self._is_plain() and self._is_a_run()):
            raise ValueError(
                "RunFit is written by accel.caching.measure, and this one has been changed since: measure again."
            )

    def _is_plain(self) -> bool:
        """Whether its parts are of the kinds that they must be: it may come from a file of somebody else."""
        tables: tuple[Any, ...] = (self.weights, self.ahead, self.guidance, self.computed, self.origin)
        if not all(isinstance(table, tuple) for table in tables):
            return False
        rows = (self.sigmas, self.updates, self.errors, *self.weights, *self.ahead)
        counts: tuple[Any, ...] = (self.first, self.parameters, self.runs, *self.computed)
        return (
            len(self.origin) == 4
            and all(map(finite_numbers, rows))
            and all(type(count) is int and count >= 0 for count in counts)
            and all(isinstance(name, str) for name in self.origin)
            and all(map(_is_named_number, self.guidance))
        )

    def _is_a_run(self) -> bool:
        """Whether each sum is of outputs that have been computed by then, in steps of the timetable."""
        end, places = self.first + len(self.weights), self.computed
        rising = list(places) == sorted(set(places)) and places[:1] == (self.first,) and places[-1] < end
        known = [sum(place <= step for place in places) for step in range(self.first, end)]
        return (
            rising
            and end < len(self.sigmas)
            and len(places) == len(self.ahead) == len(self.errors)
            and all(0 < len(row) <= most for row, most in zip(self.weights, known, strict=True))
            and all(len(row) <= before for before, row in enumerate(self.ahead))
        )

    def chain(self) -> Iterator[RunFit]:
        """Those of all denoisers."""
        yield self
        if self.also is not None:
            yield from self.also.chain()

    def misfit(self, anatomy: Anatomy) -> str:
        """Why it says nothing about this pipeline, in one clause; "" where it fits. Of several denoisers those may be
        left out that had no step in the runs (the first of two experts, from a picture that is hardly noised).
        """
        known = {one.origin[0]: one for one in self.chain()}
        if not known.keys() & anatomy.denoisers.keys():
            return f"the {next(iter(anatomy.denoisers))} was not measured"
        for name, denoiser in anatomy.denoisers.items():
            mine = known.get(name)
            if mine is None:
                continue
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
        plan = FittedPlan(frozenset(mine.computed), dict(mine._foretold()), rough)
        return FittedSums(dict(mine._steps()), plan)

    def _check(self, call: DenoiserCall, span: range, anatomy: Anatomy) -> None:
        fitted = range(self.first, self.first + len(self.weights))
        levels, known = call.context.sigmas, self.sigmas
        if len(levels) != len(known) or not np.allclose(levels, known, rtol=SAME, atol=SAME):
            raise ValueError(f"it was measured in {len(known) - 1} steps of {self.origin[3]} at other noise levels")
        if span != fitted:
            raise ValueError(f"it was measured from step {fitted.start + 1} to {fitted.stop}")
        for name, value in self.guidance:
            if anatomy.guidance_asked.get(name, value) != value:
                raise ValueError(f"it was measured with {name}={value:g}")
        updates = _last_influence(call)
        if len(updates) != len(self.updates) or not np.allclose(updates, self.updates, rtol=SAME, atol=SAME):
            raise ValueError(f"it was measured with other settings of {self.origin[3]}")

    def _steps(self) -> Iterator[tuple[int, StepSum]]:
        ahead = dict(zip(self.computed, self.ahead, strict=True))
        for position, weights in enumerate(self.weights, start=self.first):
            before = [place for place in self.computed if place <= position]
            nodes = tuple(reversed(before[-len(weights) :]))
            yield position, StepSum(nodes, weights, ahead.get(position, ()))

    def _foretold(self) -> Iterator[tuple[int, float]]:
        for position, ahead, error in zip(self.computed, self.ahead, self.errors, strict=True):
            if ahead and error > 0:
                yield position, error

    def __str__(self) -> str:
        return f"{len(self.weights)} steps"


def _is_named_number(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and finite_numbers(pair[1:])


def influence_of(call: DenoiserCall) -> Array:
    """`LinearUpdates.influence` of the run, however many outputs an update uses.

    Raises Unknown where the updates are not linear or add noise.
    """
    updates: LinearUpdates | Deep
    try:
        updates = call.updates("output")
    except Deep as deep:
        updates = deep
    if updates.random:
        raise Unknown("its updates add noise")
    return updates.influence


def _last_influence(call: DenoiserCall) -> Sequence[float]:
    """What the run's scheduler makes of the start and of each output; () where that is not known."""
    try:
        return list(influence_of(call)[-1])
    except Unknown:
        return ()
