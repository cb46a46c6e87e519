"""What the updates of the run in progress make of the denoiser's outputs: asked of its scheduler, once in a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from accel.anatomy import Anatomy
from accel.clock import Clock
from accel.timetable import Timetable
from accel.update import Around, LinearUpdates, Unknown, handed_on

Rehearsal = Callable[[str, Timetable], Around | None]
"""`Lever.rehearsal`: what levers do behind a scheduler's step."""


class RunUpdates:
    """The linear maps of one pipeline call's runs, and why there are none, by run and space."""

    def __init__(self, anatomy: Anatomy, clock: Clock) -> None:
        self._anatomy, self._clock = anatomy, clock
        self._known: dict[tuple[int, str], LinearUpdates | Unknown] = {}

    def of(self, space: str, given: Mapping[str, Any], rehearsal: Rehearsal) -> LinearUpdates:
        """What they make of the pipeline's outputs, or of the clean estimates that these imply.

        given: the arguments of the pipeline's call. Raises Unknown where that cannot be known.
        """
        run = self._clock.run
        if (run, space) not in self._known:
            self._known = {place: updates for place, updates in self._known.items() if place[0] == run}
            try:
                self._known[run, space] = self._measured(space, given, rehearsal)
            except Unknown as reason:
                self._known[run, space] = reason.untraced()
        found = self._known[run, space]
        if isinstance(found, Unknown):
            raise found.untraced()
        return found

    def forget(self) -> None:
        self._known.clear()

    def _measured(self, space: str, given: Mapping[str, Any], rehearsal: Rehearsal) -> LinearUpdates:
        name, table = self._clock.scheduler, self._clock.timetable
        received, reason = self._anatomy.received.get(name, "unknown"), self._anatomy.uncorrectable.get(name)
        if reason or table is None:
            raise Unknown(reason or "there is no scheduler to ask")
        if received != "unknown" and ("flow" in received) != table.flow:
            raise Unknown("the pipeline converts outputs before it hands them on")
        # As diffusers' pipelines hand on what they are given (`prepare_extra_step_kwargs`).
        extra = {known: given[known] for known in handed_on(table.scheduler) if given.get(known)}
        return self._clock.updates(received if space == "x0" else None, extra, partial(rehearsal, name))
