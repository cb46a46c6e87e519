"""The queue of the device: one job at a time, fair between users, bounded; abandoned jobs are removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from accel.app.pair import StudioError

_REMEMBERED = 64  # users whose turn is remembered


class Ticket:
    """One job in the queue. The worker `say`s things, and whoever submitted the job `hear`s them."""

    def __init__(self, user: str, work: Callable[[Ticket], None], cancel: threading.Event | None = None) -> None:
        self.user, self.work = user, work
        self.error: BaseException | None = None
        self.done = threading.Event()
        self._cancels = (threading.Event(), cancel)
        self._due: float | None = None
        self._said: SimpleQueue[Any] = SimpleQueue()

    @property
    def cancelled(self) -> bool:
        return self.late or any(event is not None and event.is_set() for event in self._cancels)

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return self._due is not None and time.monotonic() > self._due

    def limit(self, seconds: float) -> None:
        """From now on the job has so much time; then it is cancelled."""
        self._due = time.monotonic() + seconds

    def cancel(self) -> None:
        """Asks the job to stop, or not to begin. An event given by the caller is left as it is."""
        self._cancels[0].set()

    def say(self, message: Any) -> None:
        self._said.put(message)

    def hear(self, timeout: float) -> Any:
        """The next thing that was said, None after `timeout` seconds of silence."""
        try:
            return self._said.get(timeout=timeout) if timeout else self._said.get_nowait()
        except Empty:
            return None


def fair_order(waiting: Sequence[tuple[str, int]], served: Sequence[str]) -> list[int]:
    """In which order the jobs will be done, as their numbers: users take turns, each user's jobs come in their order.

    waiting: (user, number) in order of arrival. served: users in the order in which they last had a turn; whoever has
    had none yet, or whose turn was longest ago, is next.
    """
    left, turns, order = list(waiting), list(served), []
    while left:
        user, number = min(left, key=lambda entry: turns.index(entry[0]) if entry[0] in turns else -1)
        left.remove((user, number))
        order.append(number)
        turns = _after_turn(turns, user)
    return order


def _after_turn(turns: Sequence[str], user: str) -> list[str]:
    return [*(other for other in turns if other != user), user]


class JobQueue:
    """Runs jobs one after the other in one thread of its own. Thread-safe.

    most: jobs that may wait; most_of_one: of one user.
    """

    def __init__(self, most: int = 16, most_of_one: int = 4) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._changed = threading.Condition()
        self._waiting: list[Ticket] = []
        self._running: Ticket | None = None
        self._served: list[str] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, ticket: Ticket) -> None:
        """Puts a job into the queue. Raises StudioError where that is full or closed."""
        with self._changed:
            if self._closed:
                raise StudioError("The studio is closed.")
            self._waiting = [other for other in self._waiting if not self._given_up(other)]
            if len(self._waiting) >= self._most:
                raise StudioError(f"The queue is full ({self._most} jobs wait); try again in a moment.")
            if sum(other.user == ticket.user for other in self._waiting) >= self._most_of_one:
                raise StudioError(f"You have {self._most_of_one} jobs in the queue already; let one of them finish.")
            self._waiting.append(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="accel studio", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def position(self, ticket: Ticket) -> int | None:
        """How many jobs are before this one; None once it runs or has ended."""
        with self._changed:
            if ticket not in self._waiting:
                return None
            return self._order().index(ticket) + (self._running is not None)

    def cancel(self, ticket: Ticket) -> None:
        """Takes a waiting job out; asks a running one to stop."""
        with self._changed:
            ticket.cancel()
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.done.set()

    def close(self, timeout: float | None = None) -> None:
        """Cancels everything and waits for the job at hand."""
        with self._changed:
            self._closed = True
            everyone = [*self._waiting, *([self._running] if self._running else [])]
            self._changed.notify_all()
        for ticket in everyone:
            self.cancel(ticket)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _given_up(self, ticket: Ticket) -> bool:
        if ticket.cancelled:
            ticket.done.set()
        return ticket.cancelled

    def _order(self) -> list[Ticket]:
        waiting = [(ticket.user, number) for number, ticket in enumerate(self._waiting)]
        return [self._waiting[number] for number in fair_order(waiting, self._served)]

    def _next(self) -> Ticket | None:
        """Waits for a job and takes it; None when the slot is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            ticket = self._order()[0]
            self._waiting.remove(ticket)
            self._running = ticket
            self._served = _after_turn(self._served, ticket.user)[-_REMEMBERED:]
            return ticket

    def _serve(self) -> None:
        while (ticket := self._next()) is not None:
            try:
                if not ticket.cancelled:
                    ticket.work(ticket)
            except BaseException as error:  # whatever a job does, the next one is served
                ticket.error = error.with_traceback(None)  # which would keep everything that the job held
            finally:
                with self._changed:
                    self._running = None
                ticket.done.set()
                del ticket  # and with it the last clip, while nobody asks for another
