"""Whose call is it? What a thread or asyncio task calls belongs to what is in progress there, and to nothing else.

Weights may be shared by any number of pipelines in any number of threads, so that what is put around a denoiser hears
everybody's calls. Context variables tell them apart: each thread and each asyncio task has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar


class CallOwner:
    """Something in progress, to which belong the calls of its parts that are made in its own thread or task.

    It begins once and ends once. Threads that are started meanwhile do not inherit it (start them with
    `contextvars.copy_context().run` if they should); asyncio tasks and `asyncio.to_thread` do.
    """

    def __init__(self, parts: frozenset[int]) -> None:
        self._parts = parts  # by identity
        self._outer: CallOwner | None = None
        self._over = False

    def take_over(self) -> None:
        """It begins, in this thread or task."""
        self._outer = owner_of()
        _OWNER.set(self)

    def hand_back(self) -> None:
        """It is over, wherever this is called: a generator may be closed elsewhere than it began."""
        self._over = True
        _OWNER.set(owner_of())


def owner_of(part: object | None = None) -> CallOwner | None:
    """To whom a call of this part belongs here and now (without a part: who is in progress here): the innermost."""
    found = _OWNER.get()
    while found is not None and (found._over or (part is not None and id(part) not in found._parts)):
        found = found._outer
    return found


def owners() -> Iterator[CallOwner]:
    """All that is in progress here, from the inside out."""
    found = _OWNER.get()
    while found is not None:
        if not found._over:
            yield found
        found = found._outer


_OWNER: ContextVar[CallOwner | None] = ContextVar("accel_owner", default=None)
AT_WORK: ContextVar[CallOwner | None] = ContextVar("accel_at_work", default=None)
"""Whose denoiser is at work here and now, if one is."""
