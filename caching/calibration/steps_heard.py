"""What a scheduler is given and asked to update in each step of a run, and where in the run that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from accel.anatomy import Anatomy
from accel.caching.conditions import guidance_asked
from accel.caching.run_fit import influence_of
from accel.call import DenoiserCall, DenoiserResult, Proceed, copied
from accel.clock import StepContext
from accel.lever import Lever
from accel.method import Method
from accel.report import CallRecord, LeverReport
from accel.step_result import with_sample
from accel.update import Array, Unknown
from accel.watched import why_needed

UNPAIRED = "This pipeline cannot be measured: its scheduler's steps and its denoiser's do not go in pairs."


class RunPlace(NamedTuple):
    """Which run this is. influence: see `LinearUpdates`."""

    anatomy: Anatomy
    context: StepContext  # of its first step
    influence: Array
    guidance: Mapping[str, float]  # see `guidance_asked`


class Listener(Protocol):
    """Hears the steps of one run."""

    def needs(self, position: int) -> bool:
        """Whether it matters what the denoiser says there, so that it must be evaluated."""
        ...

    def step(self, denoiser: str, position: int, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor | None:
        """The scheduler was given this output and this sample, in float32: the sample to go on with, or None for the
        scheduler's own.
        """
        ...


@dataclass(frozen=True)
class HearSteps(Method, lever="cache", abstract=True):
    """In the place of a cache: a listener of each run, which `listen` makes, hears its steps. What it needs computes.

    Raises ValueError during the call, in one sentence, where steps are no linear map of one output each, or outputs are
    not finite or more than predictions.
    """

    listen: Callable[[RunPlace], Listener]
    runs: list[Any] = field(default_factory=list)

    def build(self, anatomy: Anatomy) -> Lever:
        return StepEar(self, anatomy)


class StepEar(Lever):
    """Tells the listener of each step, when the scheduler has made its update."""

    def __init__(self, method: HearSteps, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._guidance: dict[str, float] = {}
        self.reset()

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._guidance = guidance_asked(given)
        return {}

    def reset(self) -> None:
        self._listener: Listener | None = None
        self._asked: dict[str, int] = {}  # the denoisers of this step, and its position
        self._last: dict[tuple[str, str], Any] = {}  # by stream, what stands in where nothing is needed

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        if call.leader:
            self._asked[call.denoiser] = call.context.position
        if self._listener is None:
            self._listener = self.method.listen(self._place(call))
            self.method.runs.append(self._listener)
        stream = call.denoiser, call.stream
        if stream in self._last and not self._listener.needs(call.context.position):
            return DenoiserResult(copied(self._last[stream]), "predicted", "not needed")
        outcome = proceed(call)
        if stream not in self._last and (why := why_needed(call, outcome.output)):
            raise ValueError(f"This pipeline cannot be measured: {why}, so that its calls are never forecast.")
        self._last[stream] = copied(outcome.output)
        return outcome

    def after_step(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        asked, self._asked = self._asked, {}
        if self._listener is None or len(asked) != 1 or not {"model_output", "sample"} <= set(arguments):
            raise ValueError(UNPAIRED)
        ((denoiser, position),) = asked.items()
        output, sample = arguments["model_output"], arguments["sample"]
        if not bool(torch.isfinite(output).all()):
            raise ValueError(f"This pipeline cannot be measured: in step {position + 1} its output is not finite.")
        instead = self._listener.step(denoiser, position, output.detach().float(), sample.detach().float())
        return result if instead is None else with_sample(result, instead)

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        return LeverReport("cache", "measuring", engaged=False, reason=f"{len(calls)} calls heard")

    def _place(self, call: DenoiserCall) -> RunPlace:
        try:
            influence = influence_of(call)
        except Unknown as reason:
            raise ValueError(f"The scheduler's steps cannot be fitted: {reason}.") from None
        return RunPlace(self.anatomy, call.context, influence, self._guidance)
