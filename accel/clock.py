"""The one source of truth for run, step, sigma and stream.

It listens to the scheduler instance (`set_timesteps`, `step`) and to the denoiser calls, and to nothing else: neither
callbacks (many pipelines ignore them) nor call parity (guidance that is off or cut off would mix the streams).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from accel.streams import Streams
from accel.timetable import Timetable
from accel.update import Around, LinearUpdates, Unknown


@dataclass(frozen=True)
class StepContext:
    """Where in which run a denoiser call stands."""

    run: int  # counts set_timesteps
    step: int  # rounds of denoiser calls since the run began, from 0
    position: int  # index into the scheduler's timetable; starts above 0 for image-to-image
    total: int  # length of that timetable
    sigma: float  # noise level now: 1..0 for flow matching, noise-to-signal ratio otherwise
    timestep: float = 0.0  # the training timestep of that noise level, 1000..0 whatever the scheduler's own scale
    table: Timetable | None = field(default=None, repr=False, compare=False)
    first: int = 0  # the position at which the run began
    until: int | None = None  # the position at which it ends, where that is before the timetable does
    mixed: bool = False  # the tokens of one call are at several noise levels on the move

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels of the whole timetable and, last, of its end."""
        return self.table.whole if self.table is not None else ()

    @property
    def time(self) -> float:
        """The coordinate in which predictions are smooth, 1..0: a flow's time, also where levels are ratios."""
        return self.table.time_of(self.sigma) if self.table is not None else self.sigma

    @property
    def end(self) -> int:
        """The position behind the last step that is executed."""
        return self.total if self.until is None else self.until

    @property
    def steps(self) -> int:
        """How many steps the run takes."""
        return self.end - self.first

    @property
    def left(self) -> int:
        """How many of them are left, this one included."""
        return self.end - self.position

    @property
    def next_sigma(self) -> float:
        """The noise level that this step leads to."""
        return self.sigmas[self.position + 1] if self.position + 1 < len(self.sigmas) else 0.0

    @property
    def last(self) -> bool:
        return self.left <= 1


class CallPlace(NamedTuple):
    """What the clock tells a denoiser call. content: see `Streams.find`."""

    context: StepContext
    stream: str
    leader: bool  # the first call of this step at this denoiser: it decides, the others follow
    content: int


class Clock:
    """Tells each denoiser call its step and its stream. One per session; emptied when a pipeline call ends."""

    def __init__(self) -> None:
        self.run = 0
        self._known: dict[object, LinearUpdates | Unknown] = {}  # what schedulers said about runs like this one
        self.clear()

    def clear(self) -> None:
        """Forgets the run: nothing of an interrupted call may reach the next one."""
        self.cache_contexts: dict[str, str | None] = {}
        self.copies = 0  # steps that the pipeline has made without its scheduler
        self._scheduler: Any = None
        self.scheduler = ""  # its name in the pipeline
        self.timetable: Timetable | None = None
        self._restart()

    def _restart(self) -> None:
        self._step, self._stepped, self._begin, self._first = 0, False, 0, -1
        self._until: int | None = None
        self._called: dict[str, list[str]] = {}
        self._streams: dict[str, Streams] = {}
        self._told: dict[str, torch.Tensor] = {}  # by denoiser, the timestep argument of this step's first call
        self._heard, self._mixed = False, False  # whether the scheduler has been heard to step in this run

    def begin_run(self, scheduler: Any, name: str = "scheduler") -> None:
        """`set_timesteps` of the scheduler with that name in the pipeline has been called."""
        self.run += 1
        self._scheduler, self.scheduler, self.timetable = scheduler, name, None
        self._restart()

    def step_done(self, scheduler: Any) -> None:
        """`scheduler.step` has been called; the next denoiser call opens a new step.

        Several updates between two evaluations (Cosmos) are one step, and each evaluation of a multi-stage solver
        (Heun, PNDM) is a step of its own, because that is how often the denoiser's output is used.
        """
        self._scheduler, self._stepped, self._heard = scheduler, True, True

    def place_call(
        self, denoiser: str, conditioning: torch.Tensor | None, timestep: Any, planned: int | None = None
    ) -> CallPlace:
        """A denoiser is called. planned: how many steps the pipeline says that it takes."""
        told = None if self._heard else torch.as_tensor(0.0 if timestep is None else timestep).detach()
        if self._stepped or (told is not None and self._stepped_unheard(denoiser, told)):
            self._step, self._stepped = self._step + 1, False
            self._called, self._told = {}, {}
        if told is not None:
            self._told.setdefault(denoiser, told)
        called = self._called.setdefault(denoiser, [])
        leader = not called
        streams = self._streams.get(denoiser) or self._streams.setdefault(denoiser, Streams())
        stream, content = streams.find(self.cache_contexts.get(denoiser), conditioning, len(called), self._step)
        # The same conditioning twice in one step (tiles, perturbed guidance) is a stream of its own.
        repeats = called.count(stream)
        called.append(stream)
        name = stream if not repeats else f"{stream} ({repeats + 1})"
        return CallPlace(self._context(timestep, planned), name, leader, content)

    def _stepped_unheard(self, denoiser: str, told: torch.Tensor) -> bool:
        """Whether the timestep tells that a step was made without the scheduler: some pipelines step copies of it.

        Asked only until the scheduler is heard, because it costs a host sync. Where the timestep rises another run
        begins. Moving tokens are at one noise level, but for frames that are denoised one after the other.
        """
        before = self._told.get(denoiser)
        if self._heard or before is None or _same_levels(before, told):
            return False
        self.copies += 1
        if bool(told.max() > before.max()):
            self.run += 1
            self._restart()
            return False
        moving = told[told != before] if told.shape == before.shape else told.flatten()
        self._mixed = bool(moving.amin() < moving.amax())
        return True

    def _context(self, timestep: Any, planned: int | None) -> StepContext:
        if self.timetable is None:
            self.timetable = Timetable(self._scheduler, self._known) if self._scheduler is not None else None
        table = self.timetable
        if table is None or not table.timesteps:
            return StepContext(self.run, self._step, self._step, 0, 0.0)
        position = min(max(self._position(table, timestep), 0), len(table.timesteps) - 1)
        total = len(table.timesteps)
        if self._first < 0:
            self._first, self._until = position, min(position + planned, total) if planned else None
        return StepContext(
            self.run, self._step, position, total, table.sigmas[position], table.training[position], table,
            self._first, self._until, self._mixed,
        )  # fmt: skip

    def updates(
        self,
        prediction: str | None,
        arguments: Mapping[str, Any] | None = None,
        around: Callable[[Timetable], Around | None] | None = None,
    ) -> LinearUpdates:
        """What the updates make of outputs, or of the clean estimates of such outputs: see `Timetable.updates`."""
        if self.timetable is None:
            raise Unknown("there is no scheduler to ask")
        return self.timetable.updates(prediction, max(self._first, 0), arguments, around)

    def _position(self, table: Timetable, timestep: Any) -> int:
        index = getattr(self._scheduler, "_step_index", None)
        if index is not None:
            return int(index)
        if self._step == 0:
            begin = getattr(self._scheduler, "_begin_index", None)
            self._begin = int(begin) if begin is not None else table.index_of(timestep)
        return self._begin + self._step


def _same_levels(before: torch.Tensor, told: torch.Tensor) -> bool:
    """Whether two timestep arguments say the same, if for batches of unequal size (LTX 2: a third pass alone)."""
    if before.shape == told.shape:
        return torch.equal(before, told)
    return torch.equal(before.unique(), told.unique())
