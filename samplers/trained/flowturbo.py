"""FlowTurbo: Heun steps, pseudo-corrected steps, and steps in which a small refiner stands in for the denoiser."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from accel.anatomy import Anatomy
from accel.call import DenoiserCall, DenoiserResult, Proceed, tensors
from accel.clock import StepContext
from accel.known_schedulers import known_scheduler
from accel.lever import InactiveLever, Lever
from accel.method import nested_method, setting
from accel.reasons import Code
from accel.report import CallRecord, LeverReport
from accel.samplers.composite import WrappedSampler
from accel.samplers.sampler import Sampler, StepPlace, UpdateWeights, alternative
from accel.samplers.sigmas import Grid, Sigmas, shift_sigma, unshift_sigma
from accel.samplers.solvers import PseudoCorrector
from accel.samplers.stepper import Stepper
from accel.samplers.trained.refiner import Refiner, describe, foreign

# What a step of the run is: the Euler half and the correcting half of a Heun block, a step of the solver, and one whose
# denoiser calls the refiner answers.
PREDICT, CORRECT, SOLVE, REFINE = "E", "C", "P", "R"


@dataclass(frozen=True)
class FlowTurbo(WrappedSampler, lever="sampler"):
    """Three kinds of blocks in one run, for flow models (FlowTurbo, arXiv 2409.18128, section 3): H, a Heun step with
    two evaluations; P, a pseudo-corrected step with one; R, the same with the output of a refiner, which costs what one
    block of the denoiser does. H come first and P in between.

    refiner: the folder of a trained one (`python -m benchmarks.refiner MODEL --out FOLDER`, in a checkout of accel's
    repository), or a `Refiner`. It belongs to one model.
    heun: number of H blocks, or, below 1, the share of the steps that goes to them. A block is two steps of the run,
    so the number of steps stays what the call asks for. One pays where steps are few (see below); the scheduler must be
    able to step to the noise level that it is at. refined: number of steps that the refiner answers, or, below 1, the
    share of them. placement: "last" is the paper's, all R at the end of the run; "alternating" puts an evaluation in
    between every two of the last ones, so that the refiner never follows its own outputs.
    solver: makes the updates of P and R; any that works with velocities.

    The refiner answers each stream from that stream's own last output, in front of guidance and cache, which never see
    it. Memory: the refiner, and one output per stream.

    Measured on the pocket model (guidance 6, 4 prompts, frames against 200 steps of the pseudo-corrector): one H block
    and nothing refined is 27.4 dB at 12 evaluations and 33.7 at 16, where the pseudo-corrector alone has 24.5 and 31.5.
    With a third of 16 steps refined (`accel.pocket.folder("refiner")`) it is 30.1 dB in the time of 12 to 13
    evaluations, which alone reach 27.4 and 29.1; but repeating the last output in the same places is 30.3 and a cache
    that continues it in a straight line 30.4, so the gain is that of leaving out late evaluations, not of what the
    refiner has learnt. With the paper's placement it is 25.1. Take a cache first.
    """

    solver: Sampler = nested_method(PseudoCorrector(), "sampler")  # noqa: RUF009 (a field)
    refiner: str | Refiner = ""
    heun: float = setting(1.0, 0.0, 500.0, "Heun blocks; below 1: share of the steps")
    refined: float = setting(1 / 3, 0.0, 1000.0, "steps that the refiner answers; below 1: share of the steps")
    placement: str = setting("alternating", choices=("alternating", "last"), help="where the refined steps are")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("heun", "refined"):
            value = getattr(self, name)
            if value >= 1.0 and value != int(value):
                raise ValueError(f"FlowTurbo.{name} must be a share below 1 or a whole number of blocks, not {value}.")
        if not isinstance(self.refiner, (str, Refiner)):
            raise TypeError(f"FlowTurbo.refiner must be a folder or a Refiner, not {self.refiner!r}.")
        if self.solver.space != "velocity" or not self.solver.depth:
            raise ValueError(
                f"FlowTurbo.solver must work with velocities, as PseudoCorrector, AdamsBashforth and Euler do, and"
                f" {self.solver} does not."
            )

    def blocks(self, total: int) -> str:
        """What each of `total` steps is, one letter each; the first is always evaluated."""
        pairs = min(round(_count(self.heun, total) / (2 if self.heun < 1.0 else 1)), (total - 1) // 2)
        free = total - max(2 * pairs, 1)
        refined = min(round(_count(self.refined, total)), free)
        rest = [SOLVE] * (total - 2 * pairs)
        for number in range(refined):
            place = len(rest) - 1 - number * (2 if self.placement == "alternating" and 2 * refined <= free + 1 else 1)
            rest[place] = REFINE
        return (PREDICT + CORRECT) * pairs + "".join(rest)

    @property
    def grid(self) -> Sigmas | None:
        return HeunLevels(self) if self.heun else self.sigmas

    @property
    def depth(self) -> int:
        return max(self.solver.depth, 2 if self.heun else 1)

    def update(self, times: Sequence[float], following: float, place: StepPlace) -> UpdateWeights:
        kind = self.blocks(place.step + place.remaining)[place.step]
        if kind == PREDICT or (kind == CORRECT and len(times) < 2):
            return UpdateWeights(1.0, (following - times[-1],))
        if kind == CORRECT:
            half = (times[-1] - times[-2]) / 2
            return UpdateWeights(1.0, (-half, half))
        return self.solver.update(times, following, place)

    def build(self, anatomy: Anatomy) -> Lever:
        reason = self.obstacle(anatomy)
        if reason is not None:
            return InactiveLever(self, reason)
        try:
            return FlowTurboStepper(self, anatomy, self._own_refiner())
        except ValueError as error:
            return InactiveLever(self, str(error))

    def obstacle(self, anatomy: Anatomy) -> str | None:
        if "flow" not in anatomy.prediction:
            return (
                f"FlowTurbo is for flow models, and {anatomy.pipeline} predicts {anatomy.prediction}: take "
                f"{alternative(anatomy, next(iter(anatomy.schedulers)))}."
            )
        if self.refined and not self.refiner:
            return "No refiner was given: train one (python -m benchmarks.refiner), give its folder, or set refined=0."
        return super().obstacle(anatomy) or (self._foreign(anatomy) if self.refined else None)

    def adjust_anatomy(self, anatomy: Anatomy) -> Anatomy:
        """Corrections made afterwards would miss the steps that other levers do not see."""
        anatomy = super().adjust_anatomy(anatomy)
        own = (self.refined or self.heun) and self.obstacle(anatomy) is None
        reason = "FlowTurbo makes some of its updates from answers of its own"
        return replace(anatomy, uncorrectable=dict.fromkeys(anatomy.schedulers, reason)) if own else anatomy

    def to_dict(self) -> dict[str, Any]:
        """Raises ValueError for a refiner that is in memory alone."""
        path = self.refiner.path if isinstance(self.refiner, Refiner) else self.refiner
        if self.refiner and not path:
            raise ValueError("This FlowTurbo's refiner is in memory alone: write it with refiner.save(folder) first.")
        return super().to_dict() | {"refiner": path}

    def _foreign(self, anatomy: Anatomy) -> str | None:
        """Why the refiner is not one for these denoisers, judged without its weights."""
        if isinstance(self.refiner, Refiner):
            return self.refiner.obstacle(anatomy)
        try:
            return foreign(self.refiner, *describe(self.refiner), anatomy)
        except ValueError as error:
            return str(error)

    def _own_refiner(self) -> Refiner | None:
        """A copy that may be moved and cast without anybody noticing."""
        if not self.refined:
            return None
        given = self.refiner
        return Refiner.load(given) if isinstance(given, str) else replace(given, model=copy.deepcopy(given.model))


@dataclass(frozen=True)
class HeunLevels(Sigmas, lever="sigmas", abstract=True):
    """The noise levels of a run whose first steps come in pairs: both halves of a Heun block lead to one level.

    For two blocks: t0, t1, t1, t2, t2, t3, ... The levels themselves are those of a run with one step less for each
    block, so that the number of evaluations is the number of steps.
    """

    method: FlowTurbo

    def __str__(self) -> str:
        return f"{self.method.sigmas or 'the scheduler'}, doubled for Heun blocks"

    def obstacle(self, anatomy: Anatomy, scheduler: str) -> str | None:
        return None if self.method.sigmas is None else self.method.sigmas.obstacle(anatomy, scheduler)

    def levels(self, grid: Grid) -> list[float]:
        total = len(grid.levels)
        pairs = self.method.blocks(total).count(PREDICT)
        single = replace(grid, levels=fewer(grid, total - pairs))
        levels = list(single.levels) if self.method.sigmas is None else self.method.sigmas.levels(single)
        doubled = [level for k in range(pairs) for level in levels[k : k + 2]]
        return doubled + levels[pairs:]


def fewer(grid: Grid, count: int) -> tuple[float, ...]:
    """The scheduler's own noise levels for another number of steps: on the same line, before the shift.

    Some schedulers end their steps at their least level, others leave as much to the end as lies between two steps.
    """
    own = [unshift_sigma(level, grid.shift) for level in grid.levels]
    if len(own) < 2:
        return grid.levels[:count]
    to_the_end = own[-1] > (own[-2] - own[-1]) / 2
    known = [*own, 0.0] if to_the_end else own
    places = np.linspace(0, len(known) - 1, count + to_the_end)[:count]
    return tuple(shift_sigma(float(level), grid.shift) for level in np.interp(places, range(len(known)), known))


@dataclass
class LastOutputs:
    """A stream's last output, and the layout of the call that it was for."""

    layout: tuple[object, ...]
    output: torch.Tensor


class FlowTurboStepper(Stepper):
    """A `Stepper` that knows Heun blocks and lets the refiner do some steps."""

    method: FlowTurbo

    def __init__(self, method: FlowTurbo, anatomy: Anatomy, refiner: Refiner | None) -> None:
        self._whole, self._refiner = method, refiner
        self._last: dict[tuple[str, str], LastOutputs] = {}
        super().__init__(method, anatomy)

    def reset(self) -> None:
        super().reset()
        self._last.clear()

    def after_set_timesteps(
        self, name: str, scheduler: Any, set_timesteps: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> None:
        if self.method.heun and known_scheduler(scheduler).repeats_levels:
            super().after_set_timesteps(name, scheduler, set_timesteps, arguments)
            if self._refused is None:
                return
        if self.method.heun:
            self._unpaired = self._refused or f"{type(scheduler).__name__} cannot step to the level that it is at"
            self._refused, self.method = None, replace(self.method, heun=0.0)
        super().after_set_timesteps(name, scheduler, set_timesteps, arguments)

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        key, last = (call.denoiser, call.stream), self._last.get((call.denoiser, call.stream))
        self._total = call.context.total
        refiner = self._refiner if self._kind(call.context) == REFINE else None
        if refiner is not None and last is not None and last.layout == call.layout:
            outcome = DenoiserResult(
                self._refine(refiner, call, last.output), "predicted", "refined from the last answer", Code.REFINED
            )
            call.spared_sizes.append((self.method.lever, call.rows))
        else:
            outcome = proceed(call)
        self._remember(key, call, tensors(outcome.output))
        return outcome

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        report, said = super().report(calls), []
        if self._whole.heun:
            blocks = self.method.blocks(max(self._total, 1)).count(PREDICT)
            said.append(f"no Heun blocks: {self._unpaired}" if self._unpaired else f"{blocks} Heun blocks")
        if self._refiner is not None:
            said.append(self._refinement(calls))
        held = self._refiner.bytes + self._kept if self._refiner is not None else 0
        return replace(report, reason="; ".join([report.reason, *said]), extra_bytes=report.extra_bytes + held)

    def _begin_step(self) -> None:
        self.method, self._unpaired = self._whole, ""
        self._total = self._kept = 0
        super()._begin_step()

    def _kind(self, context: StepContext) -> str:
        return self.method.blocks(context.total)[min(context.position, context.total - 1)]

    def _refine(self, refiner: Refiner, call: DenoiserCall, last: torch.Tensor) -> Any:
        model, like = refiner.model, call.latents[0]
        known = next(model.parameters())
        if (known.device, known.dtype) != (like.device, like.dtype):
            # Not its own `to`, which warns of layers that the denoiser keeps in float32; they cast what they are given.
            torch.nn.Module.to(model, device=like.device, dtype=like.dtype)
        return refiner.refined_output(call.arguments, last)

    def _remember(self, key: tuple[str, str], call: DenoiserCall, answers: list[torch.Tensor]) -> None:
        if self._refiner is None or len(call.latents) != 1 or len(answers) != 1:
            return
        if self._refiner.fits(call.latents[0], answers[0]):
            # Pipelines may go on to change what they were answered in place.
            self._last[key] = LastOutputs(call.layout, answers[0].detach().clone())
            held = sum(last.output.numel() * last.output.element_size() for last in self._last.values())
            self._kept = max(self._kept, held)

    def _update(
        self, x: torch.Tensor, following: float, place: StepPlace, arguments: Mapping[str, Any]
    ) -> torch.Tensor:
        times, answers = self._history.times, self._history.outputs
        kind = self.method.blocks(place.step + place.remaining)[place.step]
        if kind != CORRECT or len(times) < 2:
            return super()._update(x, following, place, arguments)
        _, weights, _ = self.method.update(times[-2:], following, place)
        x = x + weights[0] * answers[-2] + weights[1] * answers[-1]
        self._history.clear()  # what was asked at the uncorrected point is used up
        return x

    def _refinement(self, calls: Sequence[CallRecord]) -> str:
        """How much was refined."""
        refined = [call for call in calls if call.code == Code.REFINED]
        if not refined:
            asked = REFINE in self.method.blocks(max(self._total, 1))
            return "nothing refined: no stream had an answer that fits" if asked else "nothing to refine"
        steps = len({(call.run, call.step) for call in refined})
        return f"{steps} of {len({(call.run, call.step) for call in calls})} steps refined"


def _count(value: float, total: int) -> float:
    """A number of steps: the value itself, or below 1 that share of all."""
    return value * total if value < 1.0 else value
