"""Summaries: how a render ended, and what a dry run would do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from accel.files import check_folder
from accel.rendering.entries import Entry
from accel.rendering.jobs import Job, Shard
from accel.rendering.ledger import RenderLedger
from accel.rendering.plan import RenderPlan

_SHOWN = 10


@dataclass
class RenderSummary:
    """Counts of jobs, and what went wrong.

    total: jobs of this manifest (of this shard). before: those that were there already. rendered, failed: in this run.
    given_up: failed in an earlier run and not tried again. left: open, because the run was stopped or something outside
    of the jobs went wrong, which `troubles` tell. `failures` are the ledger's lines of the failed jobs.
    """

    out: Path
    total: int = 0
    before: int = 0
    rendered: int = 0
    failed: int = 0
    given_up: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    troubles: list[str] = field(default_factory=list)
    failures: list[Entry] = field(default_factory=list)
    page: Path | None = None

    @property
    def left(self) -> int:
        return self.total - self.before - self.rendered - self.failed - self.given_up

    @property
    def complete(self) -> bool:
        """Whether every job has its file."""
        return self.before + self.rendered == self.total

    def __str__(self) -> str:
        parts = [f"{self.rendered} rendered"]
        parts += [f"{self.before} there already"] if self.before else []
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.given_up} failed earlier"] if self.given_up else []
        parts += [f"{self.left} open"] if self.left else []
        lines = [f"{_jobs(self.total)}: {', '.join(parts)}, in {self.seconds:.0f} s."]
        lines += [f"note: {note}" for note in self.notes[:_SHOWN]]
        lines += [f"  and {len(self.notes) - _SHOWN} more notes"] if len(self.notes) > _SHOWN else []
        lines += [f"  {_failure(entry)}" for entry in self.failures[:_SHOWN]]
        if len(self.failures) > _SHOWN:
            lines.append(f"  and {len(self.failures) - _SHOWN} more in the ledger")
        lines += self.troubles
        if self.failed or self.given_up:
            lines.append("Failed jobs are tried again with --retry-failed (retry_failed=True).")
        if self.left:
            first = "Once that is put right, run" if self.troubles else "Run"
            lines.append(f"{first} the same again to go on with the open jobs.")
        return "\n".join(lines)


class RenderInterrupted(KeyboardInterrupt):
    """Ctrl-C during a render. `summary` tells how far it got; what was finished stays finished."""

    def __init__(self, summary: RenderSummary) -> None:
        done = summary.before + summary.rendered
        super().__init__(
            f"interrupted; {done} of {summary.total} jobs are in {summary.out}, run the same command again to go on."
        )
        self.summary = summary


def _failure(entry: Entry) -> str:
    error = entry.get("error", {})
    message = str(error.get("message", "")).splitlines() or [""]
    return f"line {entry.get('from_line', '?')}: {error.get('type', 'error')}: {message[0][:200]}"


def overview(plan: RenderPlan, out: Path, shard: str | None = None) -> str:
    """Counts of jobs by model, recipe and size, and how many are done. Reads the folder and writes nothing."""
    check_folder(out)
    part = Shard.parse(shard) if shard else None
    jobs = [job for job in plan.jobs if part is None or part.holds(job)]
    ledger = RenderLedger(out, part)
    status = Counter(ledger.status(job.id) for job in jobs)
    lines = [f"{_jobs(len(jobs))}: {status['ok']} done, {status['failed']} failed earlier, {status[None]} open."]
    lines += [f"{count:6d} × {kind}" for kind, count in Counter(_kind(job) for job in jobs).items()]
    return "\n".join([*lines, *(f"note: {note}" for note in plan.notes)])


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _kind(job: Job) -> str:
    size = f"{job.width or '?'}x{job.height or '?'}" if job.width or job.height else "the model's own size"
    frames = f", {job.frames} frames" if job.frames else ""
    steps = f"{job.steps} steps" if job.steps else "the model's own steps"
    return f"{job.model}, recipe {job.recipe_name}, {size}{frames}, {steps}"
