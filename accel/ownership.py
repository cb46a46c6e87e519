"""Which pipeline call a denoiser call belongs to: the one in progress in the same thread or asyncio task, and no other.

Weights may be shared by any number of pipelines in any number of threads, so that what is put around a denoiser hears
everybody's calls. Context variables tell them apart: each thread and each asyncio task has its own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import takewhile


class CallOwner:
    """A pipeline call in progress: it owns the calls of its parts that are made in its own thread or task.

    It begins once and ends once. Threads that are started meanwhile do not inherit it (start them with
    `contextvars.copy_context().run` if they should); asyncio tasks and `asyncio.to_thread` do.
    """

    def __init__(self, parts: frozenset[int]) -> None:
        self._parts = parts  # by identity
        self._outer: CallOwner | None = None
        self._over = False
        if _is_call(self):
            with _CALLS_LOCK:
                _CALLS.add(self)

    def owns(self, part: object) -> bool:
        """Whether this part's calls are its own."""
        return id(part) in self._parts

    def take_over(self) -> None:
        """It begins, in this thread or task."""
        self._outer = next(_in_progress(), None)
        _OWNER.set(self)

    def hand_back(self) -> None:
        """It has ended, wherever this is called: a generator may be closed in another thread than it began in."""
        self._over = True
        _OWNER.set(next(_in_progress(), None))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While code of the user's runs in the middle of it, a callback, what that calls is not its own."""
        pause = _Pause(self)
        pause.take_over()
        try:
            yield
        finally:
            pause.hand_back()


class _Pause(CallOwner):
    """A callback of a pipeline call: no part's call in it belongs to that call, or to one around it."""

    def __init__(self, paused: CallOwner) -> None:
        super().__init__(frozenset())
        self.paused = paused

    def owns(self, part: object) -> bool:
        return True


def owner_of(part: object | None = None) -> CallOwner | None:
    """To whom a call of this part belongs here and now (without a part: who is in progress here): the innermost."""
    found = _OWNER.get()  # not by `_in_progress`: it is asked in every step, where functions cost
    while found is not None and (found._over or not (_is_call(found) if part is None else found.owns(part))):
        found = found._outer
    return found


def owners() -> Iterator[CallOwner]:
    """All that is in progress here, from the inside out, up to a callback."""
    return takewhile(_is_call, _in_progress())


def paused() -> Iterator[CallOwner]:
    """The calls in whose callbacks we are, from the inside out."""
    return (one.paused for one in _in_progress() if isinstance(one, _Pause))


def is_here(call: CallOwner) -> bool:
    """Whether it is in progress in this thread or task, or waits there for its callback."""
    return any(call is one for one in (*_in_progress(), *paused()))


def owned_elsewhere(part: object) -> bool:
    """Whether this part serves a call in another thread or task, which began and has not ended yet."""
    with _CALLS_LOCK:
        known = list(_CALLS)
    return any(call.owns(part) for call in known if not call._over and not is_here(call))


def _in_progress() -> Iterator[CallOwner]:
    """Calls and callbacks, from the inside out."""
    found = _OWNER.get()
    while found is not None:
        if not found._over:
            yield found
        found = found._outer


def _is_call(found: CallOwner) -> bool:
    return not isinstance(found, _Pause)


_CALLS: weakref.WeakSet[CallOwner] = weakref.WeakSet()  # in whichever thread; some of them are over
_CALLS_LOCK = threading.Lock()
_OWNER: ContextVar[CallOwner | None] = ContextVar("accel_owner", default=None)
AT_WORK: ContextVar[CallOwner | None] = ContextVar("accel_at_work", default=None)
"""The pipeline call whose denoiser is running here and now, if any."""
