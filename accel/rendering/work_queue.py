"""Which worker gets which jobs: small pieces, so that no worker idles and models are rarely loaded."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from accel.rendering.jobs import Job, JobGroup, digest

ATTEMPTS = 3
"""Workers that may die during a job before it is given up."""

Key = tuple[tuple[str, str | None], str, str]


class WorkQueue:
    """The open jobs. A piece is one call of a pipeline.

    Pieces during which a worker died are suspects: they come last, each alone on its worker, so that another death
    tells for certain which piece it was. A batch is then taken apart, so that a third death tells which job.
    """

    def __init__(self, calls: Iterable[JobGroup]) -> None:
        self._open: dict[Key, deque[JobGroup]] = {}
        self._calls: dict[str, JobGroup] = {}
        for call in calls:
            self._open.setdefault(key_of(call), deque()).append(call)
            self._calls |= {job.id: call for job in call.open}
        self._suspects: deque[JobGroup] = deque()
        self._deaths: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._open.values())) + len(self._suspects)

    def take(self, last: JobGroup | None, others: Sequence[JobGroup], *, unburdened: bool) -> JobGroup | None:
        """A piece for a worker whose last one was `last`, while other workers are at `others`.

        It stays with its group, or else its recipe, or else its model; a worker that has to change goes where the
        fewest are. `unburdened`: the worker has no job without an outcome, so it may have a suspect.
        """
        if not self._open:
            return self._suspects.popleft() if unburdened and self._suspects else None
        mine = key_of(last) if last is not None else None
        theirs = [key_of(other) for other in others]

        def changes(key: Key) -> tuple[bool, bool, bool, int, int]:
            new = [mine is None or key[: 3 - part] != mine[: 3 - part] for part in range(3)]
            return new[0], new[1], new[2], sum(key[0] == other[0] for other in theirs), theirs.count(key)

        best = min(self._open, key=changes)
        piece = self._open[best].popleft()
        if not self._open[best]:
            del self._open[best]
        return piece

    def is_suspect(self, piece: JobGroup) -> bool:
        """Whether a worker has died during a job of this piece."""
        return any(job.id in self._deaths for job in piece.jobs)

    def give_back(self, piece: JobGroup) -> None:
        """A piece that was not begun."""
        if self.is_suspect(piece):
            self._suspects.appendleft(piece)
        else:
            self._open.setdefault(key_of(piece), deque()).appendleft(piece)

    def after_death(self, jobs: Iterable[Job]) -> list[Job]:
        """Jobs during which a worker died. Returns those to give up; the others are open again."""
        given_up = []
        again: dict[str, list[str]] = {}
        for job in jobs:
            self._deaths[job.id] += 1
            if self._deaths[job.id] >= ATTEMPTS:
                given_up.append(job)
                continue
            if self._deaths[job.id] > 1:
                self._calls[job.id] = JobGroup((job,))
            again.setdefault(self._calls[job.id].first.id, []).append(job.id)
        self._suspects += [self._calls[ids[0]].only(ids) for ids in again.values()]
        return given_up

    def drop(self, model: tuple[str, str | None]) -> None:
        """Leaves out the jobs of a model that cannot be loaded."""
        self._open = {key: pieces for key, pieces in self._open.items() if key[0] != model}
        self._suspects = deque(piece for piece in self._suspects if key_of(piece)[0] != model)


def key_of(group: JobGroup) -> Key:
    """What a worker has to change for a group: model, recipe, and the rest."""
    first = group.first
    return (first.model, first.dtype), digest(first.recipe), first.group
