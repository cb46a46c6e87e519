"""The lever of all samplers: another update in place of the scheduler's, and other noise levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch

from accel import known_schedulers
from accel.anatomy import Anatomy
from accel.call import DenoiserCall
from accel.executed_steps import fewest_steps
from accel.levels_reached import levels_reached
from accel.lever import Lever
from accel.parametrization import flow_time, point_of, scale_of
from accel.report import CallRecord, LeverReport
from accel.samplers.sampler import Sampler, StepPlace, UpdateWeights
from accel.samplers.timesteps import set_sigmas, training_sigmas
from accel.step_result import with_sample
from accel.timetable import Timetable
from accel.update import Around

MOST_WEIGHTS = 4096  # updates of which the weights are kept; a run has as many as it has steps


@dataclass
class OutputHistory:
    """The outputs that the next update may use, oldest first, and the times they belong to."""

    key: tuple[object, ...] = ()
    times: list[float] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)

    def clear(self) -> None:
        self.times.clear()
        self.outputs.clear()


class RunLevels(NamedTuple):
    """The noise levels of a run under one scheduler."""

    table: Timetable
    ladder: list[float]  # of every training timestep, as flow times; none for flows
    reached: list[float]  # where its own updates lead, which is not always the next level of its timetable (DDIM)


class Stepper(Lever):
    """Lets the scheduler make its own update and replaces the sample in what it returns.

    So the scheduler's signature, return type, step counter, errors and random numbers are its own by construction; the
    price is one elementwise update per step. Noise that a sampler adds comes from the generator that `step` was given,
    else from that of the pipeline call (most pipelines do not hand it on), so that a seed means what it always means.
    Updates that the scheduler is asked to make otherwise (noise added, other noise levels for each token) are left to
    it. The history is dropped where the outputs belong to different equations: at a new run, an exchanged expert,
    another shape, a step back. They are not where guidance is cut off: the adaptive methods do that where the guided
    prediction hardly changes, and a history costs less there than its loss.
    """

    def __init__(self, method: Sampler, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._history, self._denoiser = OutputHistory(), ""
        self._refused: str | None = None
        self._asked_besides: list[str] = []  # what else the pipeline has asked of an update
        self._given: Mapping[str, Any] = {}
        self._update_weights: dict[tuple[float, ...], UpdateWeights] = {}  # of all runs: they follow from times alone
        self._begin_step()

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._given = given
        steps = given.get("num_inference_steps")
        if self.method.steps >= 1.0 or not isinstance(steps, int) or self._own_levels():
            return {}
        fewer = min(max(round(self.method.steps * steps), fewest_steps(given)), steps)
        self._shortened = f"{fewer} steps in place of {steps}" if fewer < steps else ""
        self._left_out = steps / fewer - 1.0
        return {"num_inference_steps": fewer}

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self._begin_step()

    def reset(self) -> None:
        self._history.clear()

    def end(self) -> None:
        self._given = {}

    def after_set_timesteps(
        self, name: str, scheduler: Any, set_timesteps: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> None:
        samples: Any = self.anatomy.samples.get(name)
        told: Any = self.anatomy.levels.get(name)
        self._levels.pop(name, None)
        wanted = self.method.grid
        if wanted is None or samples is None:
            return
        if self._own_levels():
            self._refused = "the call gives its own"
        elif told is None:
            self._refused = f"{type(scheduler).__name__} chooses them itself"
        else:
            self._refused = set_sigmas(scheduler, set_timesteps, arguments, wanted, told, samples, self._given)

    def before_evaluation(self, call: DenoiserCall) -> None:
        if call.denoiser != self._denoiser:  # another expert takes over here
            self._denoiser = call.denoiser
            self._history.clear()

    def rehearsal(self, name: str, table: Timetable) -> Around | None:
        if not self.method.depth:
            return None
        copied = Stepper(self.method, self.anatomy)
        copied._levels[name], copied._update_weights = self._levels_of(name, table), self._update_weights
        return partial(copied.after_step, name)

    def after_step(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        self._updates += 1
        samples: Any = None if self.anatomy.irreplaceable.get(name) else self.anatomy.samples.get(name)
        if not self.method.depth:
            return result
        known = "model_output" in arguments and "timestep" in arguments and "sample" in arguments
        other = _asked_besides(arguments)
        if samples is None or not known or other:
            self._asked_besides = other or self._asked_besides
            self._history.clear()
            return result
        sigma, following, place = self._place(name, scheduler, arguments["timestep"])
        sample = arguments["sample"]
        point = point_of(sample, arguments["model_output"], sigma, samples, self.anatomy.received[name])
        history, now, then = self._history, flow_time(sigma, samples == "flow"), flow_time(following, samples == "flow")
        key = (name, sample.shape, sample.device)
        if key != history.key or (history.times and now >= history.times[-1]):
            history.clear()
        history.key = key
        history.times.append(now)
        velocity = self.method.space == "velocity"
        history.outputs.append(point.velocity if velocity else self.method.clamp(point.clean, place.step))
        updated, scale = self._update(point.x, then, place, arguments), scale_of(following, samples)
        self._replaced += 1
        return with_sample(result, updated if scale == 1.0 else updated * scale)

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        said = [self._shortened] if self._shortened else []
        if self.method.depth:
            why = (
                f" (with {', '.join(self._asked_besides)} the pipeline asks for another update)"
                if self._asked_besides
                else ""
            )
            said.append(f"{self._replaced} of {self._updates} updates replaced{why}")
        grid = self.method.grid
        if grid is not None:
            kept = f"the scheduler's noise levels stayed: {self._refused}"
            said.append(kept if self._refused else f"noise levels of {grid}")
        engaged = bool(self._replaced or self._shortened) or (grid is not None and not self._refused)
        spared = self._left_out * len(calls)
        return LeverReport("sampler", str(self.method), engaged, "; ".join(said) or "nothing to do", self._peak, spared)

    def _begin_step(self) -> None:
        self._updates = self._replaced = self._peak = 0
        self._left_out = 0.0  # steps that were not taken, for each that was
        self._asked_besides = []
        self._refused, self._denoiser, self._shortened = None, "", ""
        self._levels: dict[str, RunLevels] = {}
        self.reset()

    def _place(self, name: str, scheduler: Any, timestep: Any) -> tuple[float, float, StepPlace]:
        """Noise levels before and after the update that the scheduler has just made, and where in the run that is."""
        if name not in self._levels:
            self._levels[name] = self._levels_of(name, Timetable(scheduler))
        table, ladder, reached = self._levels[name]
        index = getattr(scheduler, "_step_index", None)  # DDIM keeps no count
        position = int(index) - 1 if index is not None else _index_of(timestep, scheduler, table)
        place = StepPlace(position, len(table.timesteps) - position, ladder)
        return table.whole[position], reached[position], place

    def _levels_of(self, name: str, table: Timetable) -> RunLevels:
        ladder = [flow_time(sigma, False) for sigma in training_sigmas(table.scheduler)]
        samples: Any = self.anatomy.samples[name]
        return RunLevels(table, ladder, levels_reached(table, self.anatomy.received[name], samples))

    def _own_levels(self) -> bool:
        return any(self._given.get(name) is not None for name in ("sigmas", "timesteps"))

    def _update(
        self, x: torch.Tensor, following: float, place: StepPlace, arguments: Mapping[str, Any]
    ) -> torch.Tensor:
        """The sample after this step, in the common coordinates (float32, new); drops what the next one cannot use."""
        times, answers, depth = self._history.times, self._history.outputs, self.method.depth
        del times[:-depth], answers[:-depth]
        self._peak = max(self._peak, sum([answer.nbytes for answer in answers]))
        if following == times[-1]:  # some schedules end with a step that goes nowhere (Z-Image)
            return x.clone()
        key = (*times, following, place.step, place.remaining)
        if key not in self._update_weights:  # the rehearsal, or a run before, has asked for most of them
            if len(self._update_weights) >= MOST_WEIGHTS:
                self._update_weights.clear()
            self._update_weights[key] = self.method.update(times, following, place)
        keep, weights, noise = self._update_weights[key]
        x = keep * x
        for weight, answer in zip(reversed(weights), reversed(answers), strict=False):
            if weight:
                x = x + weight * answer
        if noise:
            x = x + noise * self._draw_noise(arguments)
        if depth == 1:
            self._history.clear()
        return x

    def _draw_noise(self, arguments: Mapping[str, Any]) -> torch.Tensor:
        """Standard normal noise of the sample's shape, in the precision in which diffusers' schedulers draw theirs."""
        from diffusers.utils.torch_utils import randn_tensor

        answer, generator = arguments["model_output"], arguments.get("generator")
        generator = self._given.get("generator") if generator is None else generator
        drawn: torch.Tensor = randn_tensor(arguments["sample"].shape, generator, answer.device, answer.dtype)
        return drawn.float()


def _asked_besides(arguments: Mapping[str, Any]) -> list[str]:
    """What the scheduler is given that asks it for an update which is not its plain one."""
    given = ((name, arguments.get(name)) for name in known_schedulers.OTHER_UPDATES)
    return [name for name, value in given if value is not None and (isinstance(value, torch.Tensor) or value)]


def _index_of(timestep: Any, scheduler: Any, table: Timetable) -> int:
    """Which of the run's timesteps this is: mostly a view of the scheduler's own, which is told without a host sync."""
    known = getattr(scheduler, "timesteps", None)
    if isinstance(timestep, torch.Tensor) and isinstance(known, torch.Tensor) and known.is_contiguous():
        index, rest = divmod(timestep.data_ptr() - known.data_ptr(), known.element_size())
        if not rest and 0 <= index < len(known) == len(table.timesteps) and timestep.dtype == known.dtype:
            return index
    return table.timesteps.index(float(timestep))
