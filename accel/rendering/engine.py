"""An engine renders: it gets the calls that the open jobs need, and makes sure that each job has one outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from accel.rendering.failures import DeviceError, ModelError
from accel.rendering.jobs import JobGroup
from accel.rendering.outcome import JobOutcome, WorkerSettings
from accel.rendering.worker import Worker


@dataclass(frozen=True)
class DriverCallbacks:
    """What an engine reports to. All four may be called from any thread.

    commit: a job has ended; publishes its file and writes the ledger. Raises OutputError where that cannot be done, and
        then the engine must stop. An outcome for a job that has one already is dropped.
    say: what happens now, in a few words. stop: whether to finish the jobs at hand and return.
    trouble: something outside of the jobs went wrong; jobs that got no outcome stay open for the next run.
    """

    commit: Callable[[JobOutcome], None]
    say: Callable[[str], None]
    stop: Callable[[], bool]
    trouble: Callable[[str], None]


class Engine(Protocol):
    """Runs groups, each in one call by a process that holds a Worker, until all are done or the driver says stop."""

    def run(self, groups: Sequence[JobGroup], settings: WorkerSettings, desk: DriverCallbacks) -> None: ...


class Local:
    """Everything in this process, one call after the other."""

    def __init__(self, pipe: Any = None) -> None:
        self._pipe = pipe

    def run(self, groups: Sequence[JobGroup], settings: WorkerSettings, desk: DriverCallbacks) -> None:
        try:
            with Worker(settings, desk.commit, pipe=self._pipe, say=desk.say) as worker:
                self._render(worker, groups, desk)
        except DeviceError as error:
            desk.trouble(f"{error} Run the same command again: a new process can use the device.")

    def _render(self, worker: Worker, groups: Sequence[JobGroup], desk: DriverCallbacks) -> None:
        broken: set[tuple[str, str | None]] = set()
        for group in groups:
            model = group.first.model, group.first.dtype
            if desk.stop():
                return
            if model in broken:
                continue
            try:
                worker.render(group)
            except ModelError as error:
                broken.add(model)
                desk.trouble(str(error))
