"""Measures a pipeline for FittedSchedule: unaccelerated runs of some prompts, and runs along which sums are fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch

from accel.caching.calibration.rehearsal import Errors, Rehearsal, calm_runs, check_use, typical, with_errors
from accel.caching.calibration.run_fitting import Equations, RunAlong, RunTargets, fits_of, spans
from accel.caching.calibration.steps_heard import UNPAIRED, HearSteps, Listener, RunPlace
from accel.caching.methods.fitted_schedule import FittedSchedule
from accel.call_forms import call_with_prompt
from accel.components import components_of
from accel.recipe import Recipe
from accel.session import Session, bare
from accel.terminal import telling

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
    Costs an ordinary run of each prompt and three with the planned steps alone, five where some prompts turn out rough;
    1.75 ordinary runs at a quarter of the steps. Memory: a latent for each step. An attached session is suspended
    meanwhile; nothing stays on the pipeline.
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
    with bare(pipe), telling(progress, "measuring") as tell:
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
        """The schedule with the sums that come nearest to these runs.

        What was fitted is tried on the same prompts. Those that turn out rough, by the method's own measure, will be
        computed in full, so their errors, the largest of all, must not decide for the others: the sums are fitted once
        more without them.
        """
        computed = planned(method, targets[0])
        runs: dict[int, Equations] = {}
        for number in [*range(len(self.calls))] * SWEEPS:
            runs[number] = self._along(number, targets[number], method.outputs, computed, runs)
        fit = fits_of(targets[0], computed, list(runs.values()))
        errors = self._errors(replace(method, fit=fit), runs)
        calm = calm_runs(errors, method.rough)
        if len(calm) < len(runs):
            runs = {number: runs[number] for number in calm}
            for number in calm:
                runs[number] = self._along(number, targets[number], method.outputs, computed, runs)
            fit = fits_of(targets[0], computed, list(runs.values()))
            errors = self._errors(replace(method, fit=fit), runs)
        return replace(method, fit=with_errors(fit, typical(list(errors.values()))))

    def _along(
        self, number: int, target: RunTargets, depth: int, computed: frozenset[int], runs: Mapping[int, Equations]
    ) -> Equations:
        """The equations of one prompt's run, along which the sums are those of all other runs and its own."""
        others = [known for other, known in runs.items() if other != number]
        return self._heard(self.calls[number], lambda _: RunAlong(target, computed, depth, others), "fitting").mine

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

    def _errors(self, method: FittedSchedule, numbers: Iterable[int]) -> dict[int, Errors]:
        """Of these prompts' accelerated runs. Raises ValueError where these do other than was planned."""
        found: dict[int, Errors] = {}
        for number in numbers:
            self.tell("running what was fitted")
            found[number] = {}
            rehearsal = Rehearsal.of(method, found[number])
            with Session(self.pipe, Recipe(cache=rehearsal, name="measuring")) as session:
                self.calls[number]()
            check_use(session.report(), rehearsal)
        return found


def planned(method: FittedSchedule, targets: RunTargets) -> frozenset[int]:
    """The positions that are to compute. Raises ValueError where that is all of them."""
    context, anatomy, computed = targets.place.context, targets.place.anatomy, set[int]()
    for name, span in spans(targets):
        computed |= method.positions(anatomy, name, context, span)
    if len(computed) == len(targets.outputs) or context.steps < method.min_steps:
        raise ValueError(f"{method} computes all of a run of {context.steps} steps, so there is nothing to measure.")
    return frozenset(computed)
