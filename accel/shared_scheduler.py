"""A scheduler that keeps its run in itself serves one at a time: what is said where somebody else uses it meanwhile."""

from __future__ import annotations

from typing import Any, NamedTuple

from accel.ownership import CallOwner, is_here
from accel.scheduler_state import state_of

OWN = "type(pipe)(**{{**pipe.components, {name!r}: copy.deepcopy(pipe.{name})}})"
USED_ELSEWHERE = (
    "Another pipeline has used the {name} from another thread or task in the middle of this run, and both are wrong: "
    f"give each a pipeline of its own, {OWN}."
)
USED_HERE = (
    "A callback has used the {name} of the run in progress, which does not go on as it would have: what a callback "
    f"calls needs a scheduler of its own, {OWN}."
)


class Use(NamedTuple):
    """Somebody else has used a scheduler for the first time since the call's own last step."""

    scheduler: Any
    name: str
    before: object | None  # its state
    here: bool  # in a callback, say, and not in another thread or task

    @property
    def harmful(self) -> bool:
        """Whether the scheduler is not what it was: some keep no place in a run, and a callback may put it back."""
        return self.before is None or self.before != state_of(self.scheduler)

    def __str__(self) -> str:
        return (USED_HERE if self.here else USED_ELSEWHERE).format(name=self.name)


class OthersUses:
    """What others do to the schedulers of one pipeline call, heard by the layers over these."""

    def __init__(self) -> None:
        self.pending: dict[int, Use] = {}  # by scheduler
        self._told: dict[str, None] = {}

    def hear(self, call: CallOwner, scheduler: Any, name: str) -> None:
        """Somebody else is about to use it."""
        if id(scheduler) not in self.pending:
            self.pending[id(scheduler)] = Use(scheduler, name, state_of(scheduler), is_here(call))

    def forget(self, scheduler: Any) -> None:
        """The call begins a run of its own."""
        self.pending.pop(id(scheduler), None)

    def check(self, scheduler: Any) -> None:
        """The call is about to make a step of its own. Raises RuntimeError where another thread or task has put the
        scheduler elsewhere in its run, or in another.
        """
        use = self.pending.pop(id(scheduler), None)
        if use is None or not use.harmful:
            return
        if not use.here:
            raise RuntimeError(str(use))
        self._told[str(use)] = None

    def notes(self) -> list[str]:
        """What happened before steps of the call's own: callbacks go on."""
        return list(self._told)

    def explanations(self) -> list[str]:
        """What may have led to an exception in the call."""
        return list(self._told | {str(use): None for use in self.pending.values() if use.harmful})
