"""Measures a pipeline for FittedSchedule: unaccelerated runs of some prompts, and runs along which sums are fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from accel.anatomy import Anatomy
from accel.caching.calibration.run_fitting import Equations, RunAlong, RunTargets, fits_of, spans
from accel.caching.calibration.steps_heard import UNPAIRED, HearSteps, Listener, RunPlace
from accel.caching.fitted_sums import FittedSteps, FittedSums
from accel.caching.methods.fitted_schedule import FittedSchedule
from accel.caching.policy import Policy
from accel.caching.predictor import Predictor
from accel.caching.run_fit import RunFit
from accel.call import DenoiserCall
from accel.call_forms import call_with_prompt
from accel.components import components_of
from accel.recipe import Recipe
from accel.report import Report
from accel.session import Session, bare
from accel.terminal import waiting

# Prompts are run one after the other, so in the first sweep the sums are fitted to those that have been. In the second
# each is run with what all others have found, which is as good as running all of them side by side.
SWEEPS = 2

Heard = TypeVar("Heard", bound=Listener)
Call = Callable[[], object]


def measure(
    pipe: Any,
    prompts: Sequence[str],
    method: FittedSchedule,
    *,
    generate: Callable[[Any, str, int], object] | None = None,
    progress: bool = False,
    **arguments: Any,
) -> FittedSchedule:
    """The schedule with the sums that were best along this pipeline's runs of some prompts, for a recipe.

    prompts: 4 to 8 that are like those to come; of one it learns that one. arguments: go to every pipeline call: the
    steps, the size and the guidance scale of production, because sums belong to them. Each prompt has the noise of its
    number as seed. generate(pipe, prompt, index) replaces the call altogether, and must do the same every time.
    progress: say on stderr where it is.
    Costs an ordinary run of each prompt and three that compute no more than is planned, and the memory of a latent for
    each step. An attached session is suspended meanwhile; nothing stays on the pipeline.
    Raises ValueError, in one sentence, where there is no list of prompts, the run is too short to skip, the scheduler
    adds noise, the pipeline changes latents between steps, or its calls would not use what was measured.
    """
    if not isinstance(method, FittedSchedule):
        raise TypeError(f"measure wants a method such as FittedSchedule(0.25), not {method!r}.")
    if not isinstance(prompts, (list, tuple)) or not prompts:
        raise ValueError('measure wants a list of at least one prompt, such as ["a corgi surfing", "a lighthouse"].')
    if "generator" in arguments:
        raise ValueError("Leave generator out: each prompt is run several times, with its number as seed.")

    def call(index: int) -> object:
        if generate is not None:
            return generate(pipe, prompts[index], index)
        return call_with_prompt(pipe, prompts[index], arguments | {"generator": torch.Generator().manual_seed(index)})

    components_of(pipe)
    calls = [partial(call, index) for index in range(len(prompts))]
    with bare(pipe), _telling(progress) as tell:
        measurement = Measurement(pipe, calls, tell)
        return measurement.fitted(method, measurement.targets())


@dataclass(frozen=True)
class Measurement:
    """The calls of one pipeline along which schedules are fitted, one after the other."""

    pipe: Any
    calls: Sequence[Call]
    tell: Callable[[str], object] = lambda text: None

    def targets(self) -> list[RunTargets]:
        """The unaccelerated run of each call."""
        found = [self._heard(call, RunTargets, "running") for call in self.calls]
        if not all(target.outputs for target in found):
            raise ValueError(UNPAIRED)
        return found

    def fitted(self, method: FittedSchedule, targets: Sequence[RunTargets]) -> FittedSchedule:
        """The schedule with the sums that come nearest to these runs."""
        computed = planned(method, targets[0])
        runs: dict[int, Equations] = {}
        for index, call in [*enumerate(self.calls)] * SWEEPS:
            others = [known for other, known in runs.items() if other != index]

            def along(place: RunPlace, target: RunTargets = targets[index], others: Any = others) -> RunAlong:
                return RunAlong(target, computed, method.outputs, others)

            runs[index] = self._heard(call, along, "fitting").mine
        fit = fits_of(targets[0], computed, list(runs.values()))
        return replace(method, fit=with_errors(fit, self._errors(replace(method, fit=fit))))

    def _heard(self, call: Call, listen: Callable[[RunPlace], Heard], doing: str) -> Heard:
        """What hears the run of this call."""
        self.tell(f"{doing} prompt {self.calls.index(call) + 1} of {len(self.calls)}")
        method = HearSteps(listen)
        with Session(self.pipe, Recipe(cache=method, name="measuring")):
            call()
        if len(method.runs) != 1:
            raise ValueError(f"A call must make one run to be measured, and this one made {len(method.runs)}.")
        heard: Heard = method.runs[0]
        return heard

    def _errors(self, method: FittedSchedule) -> dict[int, float]:
        """How wrong computed outputs are foretold in accelerated runs, by position. Raises ValueError where these
        do other than was planned.
        """
        seen: dict[int, list[float]] = {}
        for call in self.calls:
            self.tell("running what was fitted")
            rehearsal = _Rehearsal.of(method, seen)
            with Session(self.pipe, Recipe(cache=rehearsal, name="measuring")) as session:
                call()
            _check_use(session.report(), rehearsal)
        return {place: float(np.sqrt(np.mean(np.square(known)))) for place, known in seen.items()}


def planned(method: FittedSchedule, targets: RunTargets) -> frozenset[int]:
    """The positions that are to compute. Raises ValueError where that is all of them."""
    context, anatomy, computed = targets.place.context, targets.place.anatomy, set[int]()
    for name, span in spans(targets):
        computed |= method.positions(anatomy, name, context, span)
    if len(computed) == len(targets.outputs) or context.steps < method.min_steps:
        raise ValueError(f"{method} computes all of a run of {context.steps} steps, so there is nothing to measure.")
    return frozenset(computed)


def _check_use(report: Report, method: _Rehearsal) -> None:
    """Raises ValueError where a run has not used what was measured."""
    assert method.fit is not None
    planned = frozenset(place for one in method.fit.chain() for place in one.computed)
    more = [call for call in report.calls if call.action == "computed" and call.position not in planned]
    why = next(iter(method.unused), "") or next((call.reason for call in more), "")
    if why:
        raise ValueError(f"This pipeline's calls do not use what was measured ({why}), so leave FittedSchedule out.")


def with_errors(fit: RunFit, errors: dict[int, float]) -> RunFit:
    """With the errors of positions that compute, of all denoisers."""
    also = None if fit.also is None else with_errors(fit.also, errors)
    return replace(fit, errors=tuple(errors.get(place, 0.0) for place in fit.computed), also=also)


@dataclass(frozen=True)
class _Rehearsal(FittedSchedule, abstract=True):
    """The same schedule, which tells how wrong its computed outputs were foretold, by position, and why some stream
    does not use what was measured.
    """

    seen: dict[int, list[float]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, method: FittedSchedule, seen: dict[int, list[float]]) -> _Rehearsal:
        given: dict[str, Any] = {each.name: getattr(method, each.name) for each in fields(method)}
        return cls(**given, seen=seen)

    def informed(
        self, predictor: Predictor, call: DenoiserCall, span: range, anatomy: Anatomy
    ) -> tuple[Predictor, str]:
        assert self.fit is not None
        try:
            known = self.sums(self.fit, call, span, anatomy)
        except ValueError as reason:
            self.unused.append(str(reason))
            return predictor, ""
        return _Rehearsed(known.sums, known.plan, self.seen), ""


@dataclass(frozen=True)
class _Rehearsed(FittedSums, abstract=True):
    seen: dict[int, list[float]] = field(default_factory=dict)

    def planned(self, policy: Policy) -> Policy:
        return _Watched(self.plan, self.seen)


class _Watched(FittedSteps):
    def __init__(self, plan: Any, seen: dict[int, list[float]]) -> None:
        super().__init__(plan)
        self._seen = seen

    def watches(self, position: int) -> bool:
        return True

    def after_forecast(self, position: int, gap: int, error: float) -> None:
        self._seen.setdefault(position, []).append(error)


@contextmanager
def _telling(progress: bool) -> Iterator[Callable[[str], object]]:
    if not progress:
        yield lambda text: None
        return
    with waiting("measuring") as status:
        yield status.update
