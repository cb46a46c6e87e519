"""The driver of a render: which jobs are open, and what became of each. It alone keeps the books of a folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from accel.rendering.batches import Batch, make_batches
from accel.rendering.engine import DriverCallbacks, Engine
from accel.rendering.entries import Entry
from accel.rendering.failures import OutputError, writing
from accel.rendering.filenames import file_stem
from accel.rendering.folder import OutputFolder
from accel.rendering.interrupts import stoppable
from accel.rendering.jobs import Job, JobGroup, Shard
from accel.rendering.ledger import RenderLedger
from accel.rendering.lock import lock_folder
from accel.rendering.outcome import JobOutcome, WorkerSettings
from accel.rendering.page import index_lines
from accel.rendering.plan import RenderPlan
from accel.rendering.progress import Progress, progress
from accel.rendering.summary import RenderInterrupted, RenderSummary


class Driver:
    """Keeps the ledger of one render. There is one per folder (or shard), whatever the number of workers."""

    def __init__(self, plan: RenderPlan, out: Path, shard: Shard | None) -> None:
        self.plan, self.shard = plan, shard
        self.jobs = [job for job in plan.jobs if shard is None or shard.holds(job)]
        self.folder = OutputFolder(out, shard)
        self._by_id = {job.id: job for job in self.jobs}
        self._ended: set[str] = set()
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._summary = RenderSummary(out, total=len(self.jobs), notes=plan.notes)

    def run(
        self, engine: Engine, settings: WorkerSettings, batch: Batch, *, retry_failed: bool, shown: bool
    ) -> RenderSummary:
        """Renders what is open. Raises what `render` raises."""
        start = time.perf_counter()
        summary = self._summary
        with lock_folder(self.folder.locks, self.shard):
            with writing(self.folder.path):
                self.ledger = RenderLedger(self.folder.path, self.shard)
                self._recover()
            self.folder.sweep()
            if self.ledger.torn:
                summary.notes += (f"{self.ledger.torn} torn lines in the ledger are passed over.",)
            self.folder.write_book("jobs.jsonl", self.plan.lines(self.folder.path))
            pending = self._pending(retry_failed)
            try:
                calls = list(make_batches(self.jobs, {job.id for job in pending}, batch, self.plan.kind_of))
                self._run(engine, settings, calls, shown)
            finally:
                summary.seconds = time.perf_counter() - start
                with suppress(OutputError):  # what stopped the work is worth more than a page
                    summary.page = self._write_page()
        if summary.interrupted:
            raise RenderInterrupted(summary)
        return summary

    def _run(self, engine: Engine, settings: WorkerSettings, calls: Sequence[JobGroup], shown: bool) -> None:
        summary = self._summary
        if not calls:
            return
        with progress(shown, summary.total, summary.total - summary.left) as bar, stoppable(bar.say) as stop:
            desk = DriverCallbacks(partial(self._commit, bar), bar.say, stop, summary.troubles.append)
            try:
                engine.run(calls, settings, desk)
            except KeyboardInterrupt:
                summary.interrupted = True
            summary.interrupted |= stop.asked and summary.left > 0

    def _recover(self) -> None:
        for job_id, kept in self.ledger.entries.items():
            if kept.status == "ok" and not self.folder.has(kept.file):
                entry = self.ledger.entry(job_id)
                if entry is not None:
                    self.folder.recover(entry)

    def _pending(self, retry_failed: bool) -> list[Job]:
        """The jobs without a file, and in `retry_failed` also those that failed."""
        pending, altered = [], []
        for job in self.jobs:
            status = self.ledger.status(job.id)
            if status == "ok" and self._is_done(job):
                self._summary.before += 1
                altered += self._altered(job)
            elif status == "failed" and not retry_failed:
                self._summary.given_up += 1
            else:
                pending.append(job)
        if altered:
            self._summary.notes += (_altered_sentence(altered),)
        return pending

    def _altered(self, job: Job) -> list[str]:
        """The name of its file, where that is not what was rendered any more."""
        entry = self.ledger.entry(job.id)
        return [] if entry is None or self.folder.is_as_rendered(entry) else [entry["file"]]

    def _is_done(self, job: Job) -> bool:
        """Whether its file is there, and no later line says that it is another job's."""
        name = self.ledger.entries[job.id].file
        return self.ledger.owner(name) == job.id and self.folder.has(name)

    def _commit(self, bar: Progress, outcome: JobOutcome) -> None:
        """From any thread. An engine may have had to ask twice: the first outcome of a job counts."""
        with self._lock:
            if outcome.id not in self._ended:
                self._record(self._by_id[outcome.id], outcome)
                self._ended.add(outcome.id)
                bar.advance(outcome.status == "failed")

    def _record(self, job: Job, outcome: JobOutcome) -> None:
        """The line first, then the name: see the module `ledger`."""
        entry: Entry = {
            "id": job.id,
            "status": outcome.status,
            "attempt": self.ledger.attempts(job.id) + 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "index": job.index,
            "from_line": job.line,
        }
        entry |= {"line": job.as_text()} | outcome.to_dict()
        if outcome.status == "failed":
            with writing(self.folder.path):
                self.ledger.append(entry)
            self._summary.failed += 1
            self._summary.failures.append(entry)
            return
        with writing(self.folder.path):
            self._publish(job, outcome, entry)
        self._summary.rendered += 1
        if outcome.in_turn and (told := f"jobs are rendered one after the other: {outcome.in_turn}.") not in self._told:
            self._told.add(told)
            self._summary.notes += (told,)
        self._summary.notes += tuple(f"line {job.line}: {change}" for change in outcome.changes)

    def _publish(self, job: Job, outcome: JobOutcome, entry: Entry) -> None:
        stem = file_stem(job, outcome.suffix)
        entry["part"] = f"{self.folder.parts.name}/{outcome.part}"
        while True:
            entry["file"] = self.folder.free_name(
                stem, outcome.suffix, lambda name: self.ledger.owner(name) not in (None, job.id)
            )
            self.ledger.append(entry)
            try:
                self.folder.publish(entry["part"], entry["file"])
                return
            except FileExistsError:  # somebody was faster: another name, and another line, which counts
                continue

    def _write_page(self) -> Path:
        ids = [job.id for job in self.plan.jobs]
        self.folder.write_book("index.html", index_lines(self.ledger, ids, self._summary))
        return self.folder.path / "index.html"


def _altered_sentence(names: Sequence[str]) -> str:
    """They may be somebody's work, such as retouched pictures, so nobody but the user decides."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{shown}: changed or damaged since rendered, and kept as found; delete what is to be rendered again."
