"""Renders jobs in one process: loads a model once, keeps the denoiser busy, and says of each job how it ended.

This is what every engine runs, in this process or in others: `Worker(settings, emit)`, then `render(group)` for each
call of the pipeline, then `close()`. It writes nothing but parts; publishing them and the ledger are the driver's.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from accel.api import accelerate
from accel.files import open_file, sync_folder
from accel.measure.media import changed_sizes
from accel.measure.output import PipelineOutput, fidelity, outputs_of
from accel.measure.pipeline_runs import attach_for_run, without_progress_bars
from accel.measure.sound import sampling_rate
from accel.recipe import Recipe
from accel.rendering.encoding import encode, lost
from accel.rendering.failures import DeviceError, ModelError, writing
from accel.rendering.inputs import load_input
from accel.rendering.jobs import Job, JobGroup, digest
from accel.rendering.lora import LoraError, lora_weights
from accel.rendering.memory import (
    can_tile,
    device_answers,
    device_of,
    free_memory,
    is_out_of_memory,
    peak,
    reset_peak,
    use_tiling,
)
from accel.rendering.noise import batches_repeat_singles
from accel.rendering.outcome import JobOutcome, WorkerSettings, installed_versions, report_summary
from accel.rendering.pipeline_arguments import arguments_of, files_of, parameters_of, plain_class, wrong_arguments
from accel.rendering.seeds import call_seeds, looks_at_seeds
from accel.rendering.text_cache import TextCache
from accel.rendering.writer import Writer
from accel.report import Report
from accel.session import bare

Loader = Callable[..., Any]
"""Called as `load(model, dtype=..., device=...)`, returns a pipeline."""


@dataclass
class _Run:
    """One pipeline call for one or several jobs, as it comes from the device."""

    group: JobGroup
    output: Any
    reference: Any
    rate: int | None
    report: Any
    seconds: dict[str, float]
    peak_bytes: int | None
    notes: tuple[str, ...] = field(default=())


class Worker:
    """Renders groups of jobs and calls `emit` with a JobOutcome for each open job, from a thread of its own.

    pipe: a pipeline to render with; None loads the model that the jobs name. It comes back as it was: a session that
        is attached to it is suspended meanwhile.
    load: called as `load(model, dtype=..., device=...)` for the pipeline of a name; None is accel's own way.
    say: is told in a few words what happens now.

    `render` and `close` raise ModelError for a model that cannot be loaded, OutputError for a disk that cannot be
    written, DeviceError for a device that broke; everything else is the failure of one job.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        emit: Callable[[JobOutcome], None],
        *,
        pipe: Any = None,
        load: Loader | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._settings, self._emit, self._say = settings, emit, say
        self._given, self._loader = pipe, load
        self._pipe: Any = None
        self._session: Any = None
        self._loaded: tuple[str, str | None] | None = None
        self._recipe: str | None = None
        self._memo: TextCache | None = None
        self._undo, self._adapters = ExitStack(), ExitStack()
        self._lora: list[Any] = []
        self._load_seconds = 0.0
        self._tiled: set[str] = set()
        self._shares: dict[Any, bool] = {}
        self._device = torch.device("cpu")
        self._writer = Writer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def render(self, group: JobGroup) -> None:
        """Renders the jobs of a group in one call of the pipeline. Only the outcomes of open jobs are kept."""
        try:
            self.prepare(group.first)
        except LoraError as error:
            for job in group.open:
                self._fail(job, _described(error), ())
            return
        wrong = wrong_arguments(group.first, plain_class(self._pipe))  # jobs of a group take the same arguments
        if wrong:
            for job in group.open:
                self._fail(job, {"type": "ValueError", "message": " ".join(wrong)}, ())
            return
        self._say(f"{group.first.model}: {_title(group.first)}")
        for call in [group] if len(group.jobs) == 1 or self._can_share() else group.split(1):
            self._render(call)

    def close(self) -> None:
        """Finishes the files, and gives the pipeline back as it was."""
        try:
            self._writer.close()
        finally:
            self._leave()

    def prepare(self, job: Job) -> None:
        """Brings model and recipe to what the job needs; both stay while the next group needs the same. `render` does
        this itself.
        """
        if self._loaded != (job.model, job.dtype):
            self._leave()
            start = time.perf_counter()
            self._pipe = self._given if self._given is not None else self._load(job)
            self._load_seconds = time.perf_counter() - start
            self._loaded = job.model, job.dtype
            self._undo.enter_context(bare(self._pipe))
            self._undo.enter_context(without_progress_bars(self._pipe))
            self._memo = TextCache(self._pipe)
            self._device = device_of(self._pipe)
        if self._lora != job.weights:
            self._change_lora(job)
        if self._recipe != digest(job.recipe):
            self._session = accelerate(self._pipe, job.build_recipe())
            self._recipe = digest(job.recipe)
        if self._memo is not None:
            self._memo.context = job.guidance, digest(job.arguments)

    def _change_lora(self, job: Job) -> None:
        """Other weights on the same model. The session goes first, and a new one comes after."""
        if self._session is not None:
            self._session.restore()
        self._session, self._recipe, self._lora = None, None, []
        self._adapters.close()
        self._adapters.enter_context(lora_weights(self._pipe, job.lora))
        self._lora = job.weights

    def _can_share(self) -> bool:
        """Whether jobs may share a call with this model and recipe. Asked only where any would."""
        key = (self._loaded, self._recipe)
        if key not in self._shares:
            self._shares[key] = batches_repeat_singles(self._pipe, self._session.recipe.methods().values())
        return self._shares[key]

    def _load(self, job: Job) -> Any:
        from accel.loading import load_pipeline

        self._say(f"loading {job.model}")
        try:
            return (self._loader or load_pipeline)(job.model, dtype=job.dtype, device=self._settings.device)
        except Exception as error:  # memory, drivers, missing files: whatever it is, it is not the jobs' fault
            raise ModelError(f"the model {job.model!r} cannot be loaded: {error}") from error

    def _leave(self) -> None:
        """Lets go of the pipeline, after undoing everything."""
        pipe, self._pipe, self._loaded, self._recipe = self._pipe, None, None, None
        session, self._session = self._session, None
        if self._memo is not None:
            self._memo.detach()
            self._memo = None
        if session is not None:
            session.restore()
        self._adapters.close()
        self._lora = []
        self._undo.close()
        if pipe is not None and self._given is None:
            del pipe, session
            free_memory()

    def _render(self, group: JobGroup) -> None:
        """Where memory does not suffice: half as many jobs, then in tiles, then it is a failure.

        A call for several jobs that fails for another reason is repeated one by one, so that only the culprit fails.
        """
        if not group.open:
            return
        first = group.first
        try:
            run = self._run(group, tile=first.group in self._tiled)
        except Exception as error:  # a pipeline may raise anything, and the next job must not suffer
            failure, memory = _described(error), is_out_of_memory(error)
        else:
            self._writer.put(lambda: self._write(run))
            return
        # Only here, because the error leads to the frames that hold the tensors.
        if memory:
            free_memory()
        if len(group.jobs) > 1:
            for part in group.split((len(group.jobs) + 1) // 2 if memory else 1):
                self._render(part)
        elif memory and first.group not in self._tiled and can_tile(self._pipe):
            self._tiled.add(first.group)
            self._render(group)
        elif not device_answers(self._device):
            raise DeviceError(f"the device broke down during the job of line {first.line} ({failure['message']}).")
        else:
            self._fail(first, failure, ("decoded in tiles",) if first.group in self._tiled else ())

    def _run(self, group: JobGroup, *, tile: bool) -> _Run:
        jobs = group.jobs
        reset_peak(self._device)
        start = time.perf_counter()
        notes: tuple[str, ...] = (f"in one call with {len(jobs) - 1} other jobs",) if len(jobs) > 1 else ()
        notes += ("decoded in tiles, because the device ran out of memory",) if tile else ()
        tiles: AbstractContextManager[None] = use_tiling(self._pipe) if tile else nullcontext()
        with tiles:
            if looks_at_seeds(jobs[0]):
                output, told = call_seeds(self._pipe, jobs[0], self._arguments(jobs), self._settings.verifier)
                report, notes = Report(recipe=jobs[0].recipe_name), (*notes, told)
            else:
                output = self._call(jobs)
                report = self._session.report()
            seconds = {"total": time.perf_counter() - start}
            compared = self._settings.metrics and not looks_at_seeds(jobs[0])
            reference = self._unaccelerated(jobs) if compared else None
        phases = {name: value for name, value in report.seconds.items() if name != "total"}
        seconds = {name: value / len(jobs) for name, value in {**phases, **seconds}.items()}
        if self._load_seconds:
            seconds, self._load_seconds = {"load": self._load_seconds, **seconds}, 0.0
        rate = sampling_rate(self._pipe)
        return _Run(group, output, reference, rate, report, seconds, peak(self._device), notes)

    def _unaccelerated(self, jobs: Sequence[Job]) -> Any:
        with attach_for_run(self._pipe, Recipe()):
            return self._call(jobs)

    def _call(self, jobs: Sequence[Job]) -> Any:
        """Calls the pipeline. Noise is drawn on the CPU, so that a seed is the same picture on every device.

        The global generator is seeded as well, for the few pipelines that draw from it whatever they are given.
        """
        arguments = self._arguments(jobs)
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            # torch.manual_seed would note a whole traceback for each kind of device that is not there: milliseconds.
            torch.default_generator.manual_seed(jobs[0].seed)
            if self._device.type == "cuda":
                torch.cuda.manual_seed(jobs[0].seed)
            return self._pipe(**arguments)

    def _arguments(self, jobs: Sequence[Job]) -> dict[str, Any]:
        first = jobs[0]
        kind = plain_class(self._pipe)
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

    def _write(self, run: _Run) -> None:
        """In the writer's thread: frames to files, one outcome for each job."""
        try:
            made = outputs_of(run.output, run.rate)
            references = [None] * len(made) if run.reference is None else outputs_of(run.reference, run.rate)
            if len(made) != len(run.group.jobs):
                raise ValueError(f"{len(run.group.jobs)} were asked for, but the pipeline returned {len(made)}.")
        except Exception as error:
            for job in run.group.open:
                self._emit(self._failed(job, _described(error), run.notes))
            return
        run.output = run.reference = None
        for job, each, reference in zip(run.group.jobs, made, references, strict=True):
            if job.id not in run.group.done:
                self._emit(self._finished(run, job, each, reference))

    def _finished(self, run: _Run, job: Job, made: PipelineOutput, reference: PipelineOutput | None) -> JobOutcome:
        start, size = time.perf_counter(), made.size
        try:
            data, suffix = encode(job, made, embed=self._settings.embed)
            metrics = fidelity(made, reference) if reference is not None else {}
        except Exception as error:
            return self._failed(job, _described(error), run.notes)
        part = self._settings.parts / f"{job.id}-{secrets.token_hex(8)}.part"
        with writing(self._settings.parts.parent.parent):
            write_synced(part, data)
        return JobOutcome(
            job.id,
            "ok",
            part=part.name,
            suffix=suffix,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            frames=size["frames"],
            height=size["height"],
            width=size["width"],
            sound_seconds=size.get("seconds", 0.0),
            sampling_rate=size.get("sampling_rate", 0),
            seconds={**run.seconds, "write": time.perf_counter() - start},
            peak_bytes=run.peak_bytes,
            report=report_summary(run.report),
            metrics=metrics,
            notes=run.notes,
            changes=(
                *changed_sizes(vars(job), [size[name] for name in ("frames", "height", "width")]),
                *lost(job, made),
            ),
            device=str(self._device),
            versions=dict(installed_versions()),
        )

    def _fail(self, job: Job, error: dict[str, str], notes: tuple[str, ...]) -> None:
        outcome = self._failed(job, error, notes)
        self._writer.put(lambda: self._emit(outcome))  # outcomes come in the order of the jobs

    def _failed(self, job: Job, error: dict[str, str], notes: tuple[str, ...]) -> JobOutcome:
        return replace(
            JobOutcome(job.id, "failed"),
            error=error,
            notes=notes,
            device=str(self._device),
            versions=dict(installed_versions()),
        )


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on the disk: a ledger's line must never outlive its file."""
    with open_file(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _described(error: BaseException) -> dict[str, str]:
    message = str(error).strip() or type(error).__name__
    home = str(Path.home())
    if len(home) > 1:
        message = message.replace(home, "~")  # the ledger is passed on
    return {"type": type(error).__name__, "message": message[:2000]}


def _title(job: Job) -> str:
    words = " ".join((job.prompt or "no prompt").split())
    return words if len(words) <= 40 else words[:39] + "…"
