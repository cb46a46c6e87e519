"""Workers in other processes: they get jobs in pieces, those that die are replaced, and their jobs are tried again.

Where the processes are is the crew's business: on this machine (`processes`) or on a cluster (`ray_engine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from accel.rendering.engine import DriverCallbacks
from accel.rendering.failures import OutputError, writing
from accel.rendering.finishing import write_synced
from accel.rendering.jobs import Job, JobGroup
from accel.rendering.outcome import JobOutcome, WorkerSettings, installed_versions
from accel.rendering.work_queue import ATTEMPTS, WorkQueue, key_of
from accel.rendering.worker_loop import Event

LISTEN_SECONDS = 0.2
"""How long nobody looks whether somebody has asked to stop."""


class WorkerLink(Protocol):
    """A worker elsewhere. It may be dead; then sending does nothing, and the crew tells."""

    def send(self, piece: JobGroup) -> None: ...

    def end(self) -> None:
        """Tells a worker that has nothing to do to end."""

    def kill(self) -> None:
        """Ends it for certain: at once, or after some seconds where it was told to end."""


L = TypeVar("L", bound=WorkerLink)


class WorkerCrew(Protocol[L]):
    """Starts workers and receives their events."""

    def start(self, number: int) -> L: ...

    def listen(self, links: Sequence[L], seconds: float) -> list[tuple[L, Event]]:
        """The next events, after at most so many seconds. A worker's last one is that it is dead."""


@dataclass
class _WorkerSlot(Generic[L]):
    """The place of one worker after the other.

    piece: what it renders now, begun once the model is there. last: its piece before that. flying: jobs that it was
    given and that have no outcome. alone: it must not get another piece meanwhile. stumbles: deaths in a row before a
    piece was begun; they are no job's fault.
    """

    number: int
    link: L | None = None
    up: bool = False
    begun: bool = False
    alone: bool = False
    retired: bool = False
    stumbles: int = 0
    piece: JobGroup | None = None
    last: JobGroup | None = None
    flying: dict[str, Job] = field(default_factory=dict)

    @property
    def waits_for_model(self) -> bool:
        """Whether all that it was given is a piece that is not begun."""
        return self.piece is not None and not self.begun and len(self.flying) == len(self.piece.open)


class Pool(Generic[L]):
    """Keeps `workers` seats busy until every job has an outcome, the driver says stop, or no seat is left."""

    def __init__(
        self,
        crew: WorkerCrew[L],
        workers: int,
        groups: Sequence[JobGroup],
        settings: WorkerSettings,
        desk: DriverCallbacks,
    ) -> None:
        self._crew, self._settings, self._desk = crew, settings, desk
        self._pieces = WorkQueue(groups)
        self._seats: list[_WorkerSlot[L]] = [_WorkerSlot(number) for number in range(workers)]
        self._loaded: set[tuple[str, str | None]] = set()
        self._told: set[str] = set()
        self._deaths: list[str] = []

    def run(self) -> None:
        """Raises OutputError from a worker or the driver; all workers have ended then, and whenever this returns."""
        try:
            while self._goes_on():
                for link, event in self._crew.listen(self._links(), LISTEN_SECONDS):
                    seat = next((seat for seat in self._seats if seat.link is link), None)
                    if seat is not None:
                        self._hear(seat, event)
            for link in self._links():
                link.end()
        finally:
            for link in self._links():
                link.kill()
            if self._deaths:
                self._desk.trouble(f"Workers that died and were replaced: {len(self._deaths)} ({self._deaths[-1]}).")

    def _links(self) -> list[L]:
        return [seat.link for seat in self._seats if seat.link is not None]

    def _goes_on(self) -> bool:
        if self._desk.stop():
            for seat in self._seats:
                if seat.waits_for_model:  # that may take minutes, and nothing is lost
                    self._leave(seat)
        else:
            self._staff()
            self._hand_out()
            if len(self._pieces):
                return any(not seat.retired for seat in self._seats)
        return any(seat.flying for seat in self._seats)

    def _staff(self) -> None:
        """Starts workers for the open pieces. A piece is for whoever is up first."""
        missing = len(self._pieces) - sum(seat.link is not None and seat.piece is None for seat in self._seats)
        for seat in self._seats:
            if missing > 0 and seat.link is None and not seat.retired:
                seat.link = self._crew.start(seat.number)
                missing -= 1

    def _hand_out(self) -> None:
        for seat in self._seats:
            if seat.link is None or not seat.up or seat.piece is not None:
                continue
            if seat.alone and seat.flying:
                continue
            others = [other.piece for other in self._seats if other.piece is not None]
            piece = self._pieces.take(seat.last, others, unburdened=not seat.flying)
            if piece is not None:
                seat.piece, seat.begun, seat.alone = piece, False, self._pieces.is_suspect(piece)
                seat.flying |= {job.id: job for job in piece.open}
                seat.link.send(piece)

    def _hear(self, seat: _WorkerSlot[L], event: Event) -> None:
        match event.kind:
            case "up":
                seat.up = True
            case "begun" if seat.piece is not None:
                seat.begun, seat.stumbles = True, 0
                self._loaded.add(_model(seat.piece))
            case "ended" if event.outcome is not None:
                self._end(seat, event.outcome, event.data)
            case "free":
                seat.piece, seat.last = None, seat.piece
            case "said":
                self._desk.say(event.text)
            case "model" if seat.piece is not None:
                self._miss_model(seat, seat.piece, event.text)
            case "output":
                raise OutputError(event.text)
            case "broken" | "dead":
                self._bury(seat, event.text)

    def _end(self, seat: _WorkerSlot[L], outcome: JobOutcome, data: bytes | None) -> None:
        if data is not None:
            with writing(self._settings.parts.parent.parent):
                write_synced(self._settings.parts / outcome.part, data)
        self._desk.commit(outcome)
        seat.flying.pop(outcome.id, None)

    def _miss_model(self, seat: _WorkerSlot[L], piece: JobGroup, text: str) -> None:
        """A model that nobody has loaded so far is left out; where others have, it is this worker that cannot."""
        if _model(piece) in self._loaded:
            self._leave(seat, f"Worker {seat.number + 1} is given up: {text}")
            return
        for job in piece.open:
            del seat.flying[job.id]
        seat.piece = None
        self._pieces.drop(_model(piece))
        self._tell(text)

    def _bury(self, seat: _WorkerSlot[L], text: str) -> None:
        """A death during jobs that were begun is blamed on them, a death before that on the circumstances."""
        waiting = seat.piece if not seat.begun else None
        jobs = [job for job in seat.flying.values() if waiting is None or job not in waiting.jobs]
        self._remove_parts(jobs)
        self._deaths.append(text)
        seat.flying.clear()
        for job in self._pieces.after_death(jobs):
            error = {"type": "WorkerDied", "message": f"{ATTEMPTS} workers died during this job, at last: {text}."}
            self._desk.commit(JobOutcome(job.id, "failed", error=error, versions=dict(installed_versions())))
        seat.stumbles += not jobs
        given_up = f"Worker {seat.number + 1} is given up, it died {ATTEMPTS} times before it could begin ({text})."
        self._leave(seat, given_up if seat.stumbles >= ATTEMPTS else "")

    def _leave(self, seat: _WorkerSlot[L], given_up: str = "") -> None:
        """Ends a worker; what it has not begun is open again. Its seat stays empty where it is `given_up`."""
        if seat.piece is not None and not seat.begun:
            self._pieces.give_back(seat.piece)
        if seat.link is not None:
            seat.link.kill()
        seat.link, seat.piece, seat.up, seat.begun, seat.alone = None, None, False, False, False
        seat.flying.clear()
        if given_up:
            seat.retired = True
            self._tell(given_up)

    def _tell(self, trouble: str) -> None:
        if trouble not in self._told:
            self._told.add(trouble)
            self._desk.trouble(trouble)

    def _remove_parts(self, jobs: Sequence[Job]) -> None:
        """What a dead worker had written of its jobs, or half written; nobody else is at them."""
        for job in jobs:
            for part in self._settings.parts.glob(f"{job.id}-*.part"):
                part.unlink(missing_ok=True)


def _model(piece: JobGroup) -> tuple[str, str | None]:
    return key_of(piece)[0]
