"""What a render would do, without doing it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from accel.rendering.jobs import Job, Shard
from accel.rendering.ledger import Ledger
from accel.rendering.plan import Plan


def overview(plan: Plan, out: Path, shard: str | None = None) -> str:
    """Counts of jobs by model, recipe and size, and how many are done. Reads the folder and writes nothing."""
    part = Shard.parse(shard) if shard else None
    jobs = [job for job in plan.jobs if part is None or part.holds(job)]
    ledger = Ledger(out, part)
    status = Counter(ledger.status(job.id) for job in jobs)
    lines = [f"{len(jobs)} jobs: {status['ok']} done, {status['failed']} failed earlier, {status[None]} open."]
    lines += [f"{count:6d} × {kind}" for kind, count in Counter(_kind(job) for job in jobs).items()]
    return "\n".join([*lines, *(f"note: {note}" for note in plan.notes)])


def _kind(job: Job) -> str:
    size = f"{job.width or '?'}x{job.height or '?'}" if job.width or job.height else "the model's own size"
    frames = f", {job.frames} frames" if job.frames else ""
    steps = f"{job.steps} steps" if job.steps else "the model's own steps"
    return f"{job.model}, recipe {job.recipe_name}, {size}{frames}, {steps}"
