"""Which jobs share a call of the pipeline: decided from the manifest alone, before a model loads."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Literal

from accel.rendering.inputs import FILES
from accel.rendering.jobs import Job, JobGroup, group_jobs
from accel.rendering.pipeline_arguments import parameters_of
from accel.rendering.seeds import looks_at_seeds

Batch = int | Literal["auto"]
AUTO: Literal["auto"] = "auto"

MOST = 8
PIXELS = 1024 * 1024
"""What "auto" puts into a call: so many jobs, and so many pixels of all their frames, at most. A call that makes less
leaves a device waiting for Python; one that makes more has enough to do, and needs memory.
"""


def check_batch(batch: Any) -> Batch:
    """Raises ValueError for what is no size of a batch."""
    if batch != AUTO and (type(batch) is not int or batch < 1):
        raise ValueError(f'batch must be a whole number from 1, or "auto", not {batch!r}.')
    found: Batch = batch
    return found


def make_batches(
    jobs: Sequence[Job], pending: Container[str], batch: Batch, kind_of: Callable[[str], type | None]
) -> Iterator[JobGroup]:
    """The calls that the jobs with the ids `pending` need, in the order in which they should run.

    Batches are cut from all jobs, so that the same jobs are always in one call, whatever is rendered already. A batch
    of which a part is done is rendered whole, and only what is missing is kept. `kind_of` is the class of a model's
    pipeline, where that is known.
    """
    for group in group_jobs(jobs):
        for call in group.split(may_share_call(group.first, batch, kind_of)):
            wanted = call.only(pending)
            if wanted.open:
                yield wanted


def may_share_call(job: Job, batch: Batch, kind_of: Callable[[str], type | None]) -> int:
    """How many jobs of its group may share a call. Pipelines take one picture or video to start from."""
    alone = looks_at_seeds(job) or any(getattr(job, name) is not None for name in FILES)
    if batch == 1 or alone or job.prompt is None:
        return 1
    if batch != AUTO:
        return batch
    if not all(method.treats_samples_alike for method in job.build_recipe().methods().values()):
        return 1
    pixels = pixels_of(job, kind_of(job.model))
    return 1 if pixels is None else max(1, min(MOST, PIXELS // pixels))


def pixels_of(job: Job, kind: type | None) -> int | None:
    """The pixels of all frames of a job, by its line or else by its pipeline's defaults; None where neither
    says.
    """
    parameters = (parameters_of(kind) if kind is not None else None) or {}
    sides = [job.width or parameters.get("width"), job.height or parameters.get("height")]
    frames = job.frames or parameters.get("num_frames", 1 if parameters else None)
    known = [value for value in (*sides, frames) if isinstance(value, int)]
    return known[0] * known[1] * known[2] if len(known) == 3 else None
