"""What becomes of a call that is over: a file in the folder of parts and an outcome for each of its jobs."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from accel.files import open_file, sync_folder
from accel.measure.media import changed_sizes
from accel.measure.output import PipelineOutput, fidelity, outputs_of
from accel.rendering.calling import FinishedCall
from accel.rendering.encoding import encode, lost
from accel.rendering.failures import writing
from accel.rendering.jobs import Job
from accel.rendering.outcome import JobOutcome, WorkerSettings, installed_versions, report_summary

INTERRUPTED = (
    "the pipeline was interrupted before its last step (pipe._interrupt), and the file is what it had by then: "
    "delete it to have it rendered again."
)


def outcomes_of(run: FinishedCall, settings: WorkerSettings, device: torch.device) -> Iterator[JobOutcome]:
    """One for each open job of the call, each as soon as its file is on the disk. Lets go of the call's tensors.

    Raises OutputError for a folder that cannot be written; everything else is the failure of one job, or of all where
    the call has not returned one output for each.
    """
    try:
        made = outputs_of(run.output, run.rate)
        references = [None] * len(made) if run.reference is None else outputs_of(run.reference, run.rate)
        if len(made) != len(run.group.jobs):
            raise ValueError(f"{len(run.group.jobs)} were asked for, but the pipeline returned {len(made)}.")
    except Exception as error:
        for job in run.group.open:
            yield failure_of(job, described(error), run.notes, device)
        return
    run.output = run.reference = None
    for job, each, reference in zip(run.group.jobs, made, references, strict=True):
        if job.id not in run.group.done:
            yield _finished(run, job, each, reference, settings, device)


def _finished(
    run: FinishedCall,
    job: Job,
    made: PipelineOutput,
    reference: PipelineOutput | None,
    settings: WorkerSettings,
    device: torch.device,
) -> JobOutcome:
    start, size = time.perf_counter(), made.size
    try:
        data, suffix = encode(job, made, embed=settings.embed)
        metrics = fidelity(made, reference) if reference is not None else {}
    except Exception as error:
        return failure_of(job, described(error), run.notes, device)
    part = settings.parts / f"{job.id}-{secrets.token_hex(8)}.part"
    with writing(settings.parts.parent.parent):
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
        in_turn=run.in_turn,
        changes=(
            *changed_sizes(vars(job), [size[name] for name in ("frames", "height", "width")]),
            *lost(job, made),
            *([INTERRUPTED] if run.interrupted else []),
        ),
        device=str(device),
        versions=dict(installed_versions()),
    )


def failure_of(job: Job, error: dict[str, str], notes: tuple[str, ...], device: torch.device) -> JobOutcome:
    """The end of a job that failed. error: see `described`."""
    return replace(
        JobOutcome(job.id, "failed"),
        error=error,
        notes=notes,
        device=str(device),
        versions=dict(installed_versions()),
    )


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on the disk: a ledger's line must never outlive its file."""
    with open_file(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def described(error: BaseException) -> dict[str, str]:
    """The type and the words of an error, with the home folder shortened."""
    message = str(error).strip() or type(error).__name__
    home = str(Path.home())
    if len(home) > 1:
        message = message.replace(home, "~")  # the ledger is passed on
    return {"type": type(error).__name__, "message": message[:2000]}
