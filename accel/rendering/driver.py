"""The driver of a render: which jobs are open, who renders them, and the ledger. `accel.render` is its front."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accel.caching.calibration.fitting import calibrations
from accel.patch import session_of
from accel.recipe import Recipe
from accel.rendering.batches import Batch, check_batch, make_batches
from accel.rendering.engine import DriverCallbacks, Engine, Local
from accel.rendering.entries import Entry
from accel.rendering.failures import OutputError, writing
from accel.rendering.filenames import file_stem
from accel.rendering.fingerprint import fingerprint
from accel.rendering.folder import OutputFolder
from accel.rendering.interrupts import stoppable
from accel.rendering.jobs import Job, JobGroup, Shard
from accel.rendering.ledger import RenderLedger
from accel.rendering.lock import lock_folder
from accel.rendering.outcome import JobOutcome, WorkerSettings
from accel.rendering.page import index_lines
from accel.rendering.pipeline_arguments import plain_class
from accel.rendering.plan import DEFAULT_TEMPLATE, GivenPipeline, RenderPlan, make_plan
from accel.rendering.processes import Processes
from accel.rendering.progress import Progress, progress
from accel.rendering.seeds import Verifier
from accel.rendering.summary import RenderInterrupted, RenderSummary


def render(
    pipe: Any,
    manifest: Any,
    out: str | os.PathLike[str] = "renders",
    *,
    recipe: Any = None,
    calibration: Any = (),
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    shard: str | Shard | None = None,
    retry_failed: bool = False,
    output: str = DEFAULT_TEMPLATE,
    embed: bool = True,
    batch: Batch = 1,
    metrics: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    progress_bar: bool = True,
    workers: int = 1,
    engine: Engine | None = None,
    verifier: Verifier | None = None,
    overlap: bool = False,
) -> RenderSummary:
    """Renders every line of a manifest into a folder. Run it again after a crash: finished jobs are not repeated.

    Args:
        pipe: a diffusers pipeline; a model's name ("pocket:video", a folder, an id) for lines without one; or None
            where every line names its model. A pipeline comes back as it was; if it is accelerated, lines without a
            recipe render with its session.
        manifest: a .jsonl or .csv file, a rendered file with embedded settings, or a list of prompts or dicts.
        out: the folder. Besides the files it gets ledger.jsonl, jobs.jsonl (the manifest, expanded) and index.html.
        recipe: a preset, recipe file, Recipe or "off" for lines without one. Left out: for models the preset
            "balanced", for a pipeline what it is.
        calibration: of the model, or its file, or several of different guidance scales: every recipe takes from it what
            it can, as in `accel.accelerate`.
        defaults, overrides: fields that lines may replace, and fields that replace what lines say.
        grid: lists of values by field; every line is rendered with each combination.
        shard: "3/8" renders the third of eight parts; the parts may run at once on machines that share `out`.
        retry_failed: try jobs again that failed in an earlier run.
        output: template of file names; also a field of a line.
        embed: write the settings into each file; `settings_of` reads them.
        batch: jobs of equal settings that share a call of the pipeline. 1 gives the bits of `pipe(...)`, whatever else
            the manifest holds. More is faster for small jobs, but the sums of a batch are rounded in another order, so
            that files differ in their last bits from single runs, and caches that measure decide for the batch
            together. "auto" makes batches of small jobs only, up to 8, and only where the recipe decides without
            looking. Batches are cut from the manifest (or shard) as a whole: the same one gives the same files with any
            number of workers and after crashes, but for a batch during which two workers died or for which memory did
            not suffice. Where a part of a batch is there already, the whole is rendered for the missing part.
        metrics: render each job unaccelerated as well and record PSNR and SSIM. More than doubles the time.
        device, dtype: for models that are loaded here.
        workers: processes on this machine, each with its own copy of the model, where there are GPUs each with its own.
            Models must be given by name, and a script must call `render` below `if __name__ == "__main__":`.
        verifier: judges for lines with the field `best_of`, as that of `accel.best_of`; pocket models have their own.
            With workers it must be a function of a module, which they import.
        overlap: decode a job while the next one is denoised, in two threads over the same weights (on the CPU;
            elsewhere, and wherever it is not safe, jobs run one after the other, and a note says why). Bytes and order
            are those of a plain loop with as many threads as each of the two has: they share torch's, unless
            OMP_NUM_THREADS says how many each has. Memory: the latents and decoder activations of one more job, and
            once more what a recipe makes of weights. It pays where decoding takes a good part of the time and a core is
            free for it, or where products are too small for all cores.
        engine: who renders: `Processes`, `Ray` or an Engine of your own; left out, this process or `workers` processes.

    Raises ManifestError with all that is wrong in a manifest before any model loads, Busy where another process renders
    into the folder, OutputError for a folder that cannot be written or a disk that is full, and Interrupted (a
    KeyboardInterrupt) on Ctrl-C. A job that fails is recorded, and the others go on.
    """
    check_batch(batch)
    given = None if pipe is None or isinstance(pipe, str) else pipe
    engine = _engine(given, workers, engine)
    plan = plan_for(
        pipe, manifest, recipe=recipe, calibration=calibration, defaults=defaults, overrides=overrides, grid=grid,
        output=output, dtype=dtype, verifier=verifier,
    )  # fmt: skip
    part = Shard.parse(shard) if isinstance(shard, str) else shard
    driver = Driver(plan, Path(out), part)
    settings = WorkerSettings(driver.folder.parts.absolute(), device, embed, metrics, verifier, overlap)
    return driver.run(engine, settings, batch, retry_failed=retry_failed, shown=progress_bar)


def _engine(given: Any, workers: int, engine: Engine | None) -> Engine:
    if type(workers) is not int or workers < 1:
        raise ValueError(f"workers must be a whole number from 1, not {workers!r}.")
    if engine is None and workers == 1:
        return Local(given)
    if given is not None:
        raise ValueError(
            "other processes load their models themselves: give the model's name instead of a pipeline, or a function "
            "that loads it, engine=Processes(2, load=...)."
        )
    return engine or Processes(workers)


def plan_for(
    pipe: Any,
    manifest: Any,
    *,
    recipe: Any = None,
    calibration: Any = (),
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    output: str = DEFAULT_TEMPLATE,
    dtype: str | None = None,
    verifier: Verifier | None = None,
) -> RenderPlan:
    """The jobs that :func:`render` would render with these arguments; nothing is loaded or written."""
    from accel.presets import DEFAULT

    fallback: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    given = None
    if pipe is None or isinstance(pipe, str):
        fallback |= {"recipe": DEFAULT} | ({"model": pipe} if pipe else {})
    else:
        session = session_of(pipe)
        given = GivenPipeline(fingerprint(pipe), plain_class(pipe))
        fallback["recipe"] = session.recipe if session is not None else Recipe()
    if recipe is not None:
        fallback["recipe"] = _from_here(recipe)
    fallback |= defaults or {}
    return make_plan(
        manifest, given=given, defaults=fallback, overrides=overrides, grid=grid, template=output,
        calibrations=calibrations(calibration), verifier=verifier,
    )  # fmt: skip


class Driver:
    """Keeps the ledger of one render. There is one per folder (or shard), whatever the number of workers."""

    def __init__(self, plan: RenderPlan, out: Path, shard: Shard | None = None) -> None:
        self.plan, self.shard = plan, shard
        self.jobs = [job for job in plan.jobs if shard is None or shard.holds(job)]
        self.folder = OutputFolder(out, shard)
        self._by_id = {job.id: job for job in self.jobs}
        self._ended: set[str] = set()
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._summary = RenderSummary(out, total=len(self.jobs), notes=plan.notes)

    def run(
        self, engine: Engine, settings: WorkerSettings, batch: Batch = 1, *, retry_failed: bool, shown: bool = True
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
            desk = DriverCallbacks(self._committing(bar), bar.say, stop, summary.troubles.append)
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

    def _committing(self, bar: Progress) -> Callable[[JobOutcome], None]:
        def commit(outcome: JobOutcome) -> None:
            with self._lock:
                if outcome.id in self._ended:  # an engine may have had to ask twice
                    return
                self._commit(self._by_id[outcome.id], outcome)
                self._ended.add(outcome.id)
                bar.advance(outcome.status == "failed")

        return commit

    def _commit(self, job: Job, outcome: JobOutcome) -> None:
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


def _from_here(recipe: Any) -> Any:
    """A recipe file is meant relative to where the caller is, not to the manifest."""
    if isinstance(recipe, os.PathLike) or (isinstance(recipe, str) and recipe.endswith(".json")):
        return os.path.abspath(recipe)
    return recipe
