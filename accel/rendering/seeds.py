"""Jobs that look at seeds: a draft of one, or the best of several that follow each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from accel.loading import POCKET
from accel.rendering.jobs import Job

Verifier = Callable[..., Any]
"""Called as verifier(frames) or verifier(frames, prompt), gives a score: see `accel.best_of`."""


def looks_at_seeds(job: Job) -> bool:
    """Whether this is no plain call of the pipeline."""
    return job.draft is not None or job.best_of is not None


def call_seeds(pipe: Any, job: Job, given: Mapping[str, Any], verifier: Verifier | None) -> tuple[Any, str]:
    """What the pipeline returned for a draft, or for the best seed with the job's recipe; and what is to be told of it.

    given: arguments of the call. A draft goes by a recipe of its own, and by the seed alone: the same line without the
    draft is the file that it becomes.
    """
    from accel.drafting.best_seed import best_of
    from accel.drafting.drafts import draft

    call = {name: value for name, value in given.items() if name not in ("prompt", "generator")}
    if job.draft is not None:
        made = draft(pipe, job.prompt, seed=job.seed, share=job.draft, **call)
        return made.output, f"a draft, for {made.cost:.2f} unaccelerated runs"
    seeds = range(job.seed, job.seed + (job.best_of or 1))
    judge = verifier or _own_verifier()
    found = best_of(pipe, job.prompt, seeds=seeds, verifier=judge, recipe=job.build_recipe(), **call)
    return found.output, f"best: {found}"


def unjudged(job: Job, verifier: Verifier | None) -> list[str]:
    """What is wrong with a job that looks at seeds, one sentence each."""
    problems = []
    if looks_at_seeds(job) and job.prompt is None:
        problems.append("draft and best_of need a prompt.")
    if job.draft is not None and job.best_of is not None:
        problems.append("draft and best_of are both given; keep one of them.")
    if job.best_of is not None and verifier is None and not job.model.startswith(POCKET):
        problems.append("best_of needs a judge: give --verifier module:function, or render drafts and choose.")
    return problems


def _own_verifier() -> Verifier:
    """That of the pocket models: others come here with one that was given."""
    from accel.pocket import verify

    return verify
