"""One call of a pipeline for the jobs of a group: its arguments, its noise, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from accel.device import peak, reset_peak
from accel.measure.pipeline_runs import attach_for_run
from accel.measure.sound import sampling_rate
from accel.recipe import Recipe
from accel.rendering.inputs import load_input
from accel.rendering.jobs import Job, JobGroup
from accel.rendering.lanes import Lane
from accel.rendering.memory import use_tiling
from accel.rendering.outcome import WorkerSettings
from accel.rendering.pipeline_arguments import arguments_of, files_of, parameters_of, plain_class
from accel.rendering.seeds import call_seeds, looks_at_seeds
from accel.rendering.stages import Place
from accel.report import Report


@dataclass
class FinishedCall:
    """One pipeline call for one or several jobs, as it comes from the device.

    in_turn: why it overlapped with none. interrupted: whether somebody has ended it before its last step.
    """

    group: JobGroup
    output: Any
    reference: Any
    rate: int | None
    report: Any
    seconds: dict[str, float]
    peak_bytes: int | None
    notes: tuple[str, ...] = ()
    in_turn: str = ""
    interrupted: bool = False


class PipelineCaller:
    """Calls the pipeline of a lane, on this device."""

    def __init__(self, lane: Lane, settings: WorkerSettings, device: torch.device) -> None:
        self._lane, self._settings, self._device = lane, settings, device

    def call(self, group: JobGroup, place: Place, *, tile: bool) -> FinishedCall:
        """Calls it, or calls it twice where it is compared with itself unaccelerated."""
        jobs = group.jobs
        reset_peak(self._device)
        notes: tuple[str, ...] = (f"in one call with {len(jobs) - 1} other jobs",) if len(jobs) > 1 else ()
        notes += ("decoded in tiles, because the device ran out of memory",) if tile else ()
        tiles: AbstractContextManager[None] = use_tiling(self._lane.pipe) if tile else nullcontext()
        with place, tiles:
            start, told = time.perf_counter(), ""
            if looks_at_seeds(jobs[0]):
                given = self._arguments(jobs)
                output, told = call_seeds(self._lane.pipe, jobs[0], given, self._settings.verifier)
                report = Report(recipe=jobs[0].recipe_name)
            else:
                output = self._call(jobs, place)
                report = self._lane.session.report()
            total = time.perf_counter() - start
            interrupted = bool(getattr(self._lane.pipe, "_interrupt", False))  # as diffusers' callbacks do
            compared = self._settings.metrics and not looks_at_seeds(jobs[0])
            reference = self._unaccelerated(jobs, place) if compared else None
            seconds = {name: value / len(jobs) for name, value in _phases(report, total, place.waited).items()}
            rate, most = sampling_rate(self._lane.pipe), peak(self._device)
        notes += (told,) if told else ()
        return FinishedCall(group, output, reference, rate, report, seconds, most, notes, place.note, interrupted)

    def _unaccelerated(self, jobs: Sequence[Job], place: Place) -> Any:
        with attach_for_run(self._lane.pipe, Recipe()):
            return self._call(jobs, place)

    def _call(self, jobs: Sequence[Job], place: Place) -> Any:
        """Noise is drawn on the CPU, so that a seed is the same picture on every device."""
        arguments = self._arguments(jobs)
        with place.seeded(jobs[0].seed, self._device):
            return self._lane.pipe(**arguments)

    def _arguments(self, jobs: Sequence[Job]) -> dict[str, Any]:
        first = jobs[0]
        kind = plain_class(self._lane.pipe)
        arguments = arguments_of(first, kind)
        arguments |= {name: load_input(arguments[name], what) for name, what in files_of(first, kind).items()}
        if len(jobs) > 1:
            arguments["prompt"] = [job.prompt for job in jobs]
            if first.negative_prompt is not None:
                arguments["negative_prompt"] = [job.negative_prompt for job in jobs]
        taken = parameters_of(kind)
        generators = [torch.Generator("cpu").manual_seed(job.seed) for job in jobs]
        if taken is None or "generator" in taken:
            arguments["generator"] = generators if len(jobs) > 1 else generators[0]
        if taken is None or "output_type" in taken:
            arguments["output_type"] = "np"  # rounded to the same pixels as "pil", but in the writer's thread
        return arguments


def _phases(report: Report, total: float, waited: float) -> dict[str, float]:
    """Seconds by phase; what a call waited for the decoder of another is no part of any."""
    phases = {name: value for name, value in report.seconds.items() if name != "total"}
    if waited:
        phases |= {"after": max(phases.get("after", 0.0) - waited, 0.0), "wait": waited} if phases else {"wait": waited}
    return {**phases, "total": total}
