"""Renders jobs in one process: loads a model once, keeps the denoiser busy, and says of each job how it ended.

This is what every engine runs, in this process or in others: `Worker(settings, emit)`, then `render(group)` for each
call of the pipeline, then `close()`. It writes nothing but parts; publishing them and the ledger are the driver's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import torch

from accel.device import device_of
from accel.measure.pipeline_runs import without_progress_bars
from accel.rendering.calling import FinishedCall, PipelineCaller
from accel.rendering.failures import DeviceError, ModelError
from accel.rendering.finishing import described, failure_of, outcomes_of
from accel.rendering.jobs import Job, JobGroup
from accel.rendering.lanes import Lane, Lanes, Turn
from accel.rendering.lora import LoraError, lora_weights
from accel.rendering.memory import can_tile, device_answers, free_memory, is_out_of_memory
from accel.rendering.noise import batches_repeat_singles
from accel.rendering.outcome import JobOutcome, WorkerSettings
from accel.rendering.pipeline_arguments import plain_class, wrong_arguments
from accel.rendering.seeds import looks_at_seeds
from accel.rendering.stages import MEMORY, METRICS, Place
from accel.rendering.writer import Writer
from accel.session import bare

Loader = Callable[..., Any]
"""Called as `load(model, dtype=..., device=...)`, returns a pipeline."""


class Worker:
    """Renders groups of jobs and calls `emit` with a JobOutcome for each open job, from a thread of its own.

    pipe: a pipeline to render with; None loads the model that the jobs name. It comes back as it was: a session that
        is attached to it is suspended meanwhile.
    load: called as `load(model, dtype=..., device=...)` for the pipeline of a name; None is accel's own way.
    say: is told in a few words what happens now.
    failed: is told, from any thread, of an error that is going to be raised by what is called next, for those who wait
        for outcomes meanwhile.

    `render` and `close` raise ModelError for a model that cannot be loaded, OutputError for a disk that cannot be
    written, DeviceError for a device that broke; everything else is the failure of one job. Where jobs overlap, an
    error of the last one is raised by what is called next.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        emit: Callable[[JobOutcome], None],
        *,
        pipe: Any = None,
        load: Loader | None = None,
        say: Callable[[str], None] = lambda text: None,
        failed: Callable[[BaseException], object] = lambda error: None,
    ) -> None:
        self._tell_of = failed
        self._settings, self._emit, self._say = settings, emit, say
        self._given, self._loader = pipe, load
        self._pipe: Any = None
        self._lanes: Lanes | None = None
        self._loaded: tuple[str, str | None] | None = None
        self._undo, self._adapters = ExitStack(), ExitStack()
        self._lora: list[Any] = []
        self._load_seconds = 0.0
        self._tiled: set[str] = set()
        self._shares: dict[Any, bool] = {}
        self._device = torch.device("cpu")
        self._writer = Writer(failed=failed)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._lanes is not None and kind is not None and not issubclass(kind, Exception):  # Ctrl-C, twice
            self._lanes.stop()
        self.close()

    def render(self, group: JobGroup) -> None:
        """Renders the jobs of a group in one call of the pipeline. Only the outcomes of open jobs are kept.

        Returns when another group may be begun: where jobs overlap, that is before this one has been decoded.
        """
        try:
            lanes, lane = self._lane_for(group.first)
        except LoraError as error:
            self._refuse(group, described(error))
            return
        wrong = wrong_arguments(group.first, plain_class(self._pipe))  # jobs of a group take the same arguments
        if wrong:
            self._refuse(group, {"type": "ValueError", "message": " ".join(wrong)})
            return
        self._say(f"{group.first.model}: {_title(group.first)}")
        for call in [group] if len(group.jobs) == 1 or self._can_share(lane) else group.split(1):
            lanes, lane = self._lane_for(call.first)
            lanes.begin(lane, partial(self._render, lane, call))

    def finish(self) -> None:
        """Waits until every call of the pipeline is over. Raises what `render` raises."""
        if self._lanes is not None:
            self._lanes.drain()

    def close(self) -> None:
        """Finishes the files, and gives the pipeline back as it was."""
        try:
            self.finish()
        finally:
            try:
                self._writer.close()
            finally:
                self._leave()

    def prepare(self, job: Job) -> None:
        """Brings model and recipe to what the job needs; both stay while the next group needs the same. `render` does
        this itself.
        """
        self._lane_for(job)

    def _lane_for(self, job: Job) -> tuple[Lanes, Lane]:
        """A lane without work, on the model and with the recipe of the job."""
        if self._lanes is None or self._loaded != (job.model, job.dtype):
            self.finish()
            self._leave()
            self._lanes = self._enter(job)
        if self._lora != job.weights:
            self.finish()
            self._change_lora(self._lanes, job)
        return self._lanes, self._lanes.lane_for(job)

    def _enter(self, job: Job) -> Lanes:
        """The model of the job."""
        start = time.perf_counter()
        self._pipe = self._given if self._given is not None else self._load(job)
        self._load_seconds = time.perf_counter() - start
        self._loaded = job.model, job.dtype
        self._undo.enter_context(bare(self._pipe))
        self._undo.enter_context(without_progress_bars(self._pipe))
        self._device = device_of(self._pipe)
        return Lanes(self._pipe, overlap=self._settings.overlap, failed=self._tell_of)

    def _change_lora(self, lanes: Lanes, job: Job) -> None:
        """Other weights on the same model. The sessions go first, and new ones come after."""
        for lane in lanes.lanes:
            lane.drop_session()
        self._lora = []
        self._adapters.close()
        self._adapters.enter_context(lora_weights(self._pipe, job.lora))
        self._lora = job.weights

    def _can_share(self, lane: Lane) -> bool:
        """Whether jobs may share a call with this model and recipe. Asked only where any would."""
        key = (self._loaded, lane.recipe)
        if key not in self._shares:
            self.finish()  # schedulers are asked, which may draw noise
            self._shares[key] = batches_repeat_singles(self._pipe, lane.session.recipe.methods().values())
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
        pipe, self._pipe, self._loaded = self._pipe, None, None
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            lanes.close()
        self._adapters.close()
        self._lora = []
        self._undo.close()
        if pipe is not None and self._given is None:
            del pipe, lanes
            free_memory()

    def _render(self, lane: Lane, group: JobGroup, turn: Turn, *, alone: bool = False) -> None:
        """Where memory does not suffice: half as many jobs, then in tiles, then it is a failure.

        A call that fails beside another is repeated alone. One for several jobs that fails for another reason is
        repeated one by one, so that only the culprit fails.
        """
        if not group.open:
            return
        first = group.first
        tile = first.group in self._tiled
        place = turn.place(alone=alone or tile or self._settings.metrics or looks_at_seeds(first))
        try:
            run = PipelineCaller(lane, self._settings, self._device).call(group, place, tile=tile)
        except Exception as error:  # a pipeline may raise anything, and the next job must not suffer
            failure, memory = described(error), is_out_of_memory(error)
        else:
            run.in_turn = run.in_turn or self._why_alone(turn, place)
            self._deliver(turn, run)
            return
        # Only here, because the error leads to the frames that hold the tensors.
        if memory:
            free_memory()
            turn.keep_apart(MEMORY)
        if not place.alone:
            self._render(lane, group, turn, alone=True)
        elif len(group.jobs) > 1:
            for part in group.split((len(group.jobs) + 1) // 2 if memory else 1):
                self._render(lane, part, turn, alone=True)
        elif memory and first.group not in self._tiled and can_tile(lane.pipe):
            self._tiled.add(first.group)
            self._render(lane, group, turn, alone=True)
        elif not device_answers(self._device):
            raise DeviceError(f"the device broke down during the job of line {first.line} ({failure['message']}).")
        else:
            turn.wait()
            self._fail(first, failure, ("decoded in tiles",) if first.group in self._tiled else ())

    def _why_alone(self, turn: Turn, place: Place) -> str:
        """Why jobs that should overlap do not."""
        if not place.alone or not self._settings.overlap:
            return ""
        return turn.in_turn or (METRICS if self._settings.metrics else "")

    def _deliver(self, turn: Turn, run: FinishedCall) -> None:
        """To the writer, when all before it are there."""
        if self._load_seconds:
            run.seconds, self._load_seconds = {"load": self._load_seconds, **run.seconds}, 0.0
        turn.wait()
        device = self._device
        self._writer.put(lambda: self._emit_all(run, device))

    def _emit_all(self, run: FinishedCall, device: torch.device) -> None:
        """In the writer's thread."""
        for outcome in outcomes_of(run, self._settings, device):
            self._emit(outcome)

    def _refuse(self, group: JobGroup, error: dict[str, str]) -> None:
        """Before any call."""
        self.finish()  # outcomes come in the order of the jobs
        for job in group.open:
            self._fail(job, error, ())

    def _fail(self, job: Job, error: dict[str, str], notes: tuple[str, ...]) -> None:
        outcome = failure_of(job, error, notes, self._device)
        self._writer.put(lambda: self._emit(outcome))  # outcomes come in the order of the jobs


def _title(job: Job) -> str:
    words = " ".join((job.prompt or "no prompt").split())
    return words if len(words) <= 40 else words[:39] + "…"
