"""One job at a time, users in turn, nothing lost and nobody waiting for a job that nobody wants any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from accel.app.byte_lru import ByteLRU
from accel.app.job_queue import JobQueue, Ticket, fair_order
from accel.app.pair import StudioError


@pytest.fixture
def slot() -> Iterator[JobQueue]:
    found = JobQueue(most=6, most_of_one=4)
    yield found
    found.close(timeout=120.0)


class Gate:
    """A job that begins, and ends when it is let go."""

    def __init__(self, slot: JobQueue, user: str = "first") -> None:
        self.begun, self.open = threading.Event(), threading.Event()
        self.ticket = Ticket(user, self._work)
        slot.submit(self.ticket)
        assert self.begun.wait(120.0)

    def _work(self, ticket: Ticket) -> None:
        self.begun.set()
        while not (self.open.is_set() or ticket.cancelled):
            time.sleep(0.005)


def note(order: list[str], name: str) -> Callable[[Ticket], None]:
    return lambda ticket: order.append(name)


def test_users_take_turns_and_each_ones_jobs_keep_their_order() -> None:
    waiting = [("a", 0), ("a", 1), ("a", 2), ("b", 3), ("c", 4), ("b", 5)]
    assert fair_order(waiting, served=[]) == [0, 3, 4, 1, 5, 2]
    # Whoever had the last turn comes after those who have had none since.
    assert fair_order(waiting, served=["c", "a"]) == [3, 4, 0, 5, 1, 2]


def test_a_newcomer_is_before_the_second_job_of_the_user_who_came_first(slot: JobQueue) -> None:
    order: list[str] = []
    gate = Gate(slot, "a")
    tickets = [Ticket(user, note(order, name)) for user, name in (("a", "a2"), ("a", "a3"), ("b", "b1"))]
    for ticket in tickets:
        slot.submit(ticket)
    assert [slot.position(ticket) for ticket in tickets] == [2, 3, 1]
    gate.open.set()
    assert all(ticket.done.wait(120.0) for ticket in tickets)
    assert order == ["b1", "a2", "a3"] and slot.position(tickets[0]) is None


def test_jobs_run_one_at_a_time_in_one_thread(slot: JobQueue) -> None:
    running, most, threads = [0], [0], set()

    def work(ticket: Ticket) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        threads.add(threading.get_ident())
        time.sleep(0.01)
        running[0] -= 1

    tickets = [Ticket(str(number), work) for number in range(6)]
    for ticket in tickets:
        slot.submit(ticket)
    assert all(ticket.done.wait(120.0) for ticket in tickets)
    assert most == [1] and len(threads) == 1


def test_a_waiting_job_that_is_cancelled_never_begins(slot: JobQueue) -> None:
    order: list[str] = []
    gate, event = Gate(slot), threading.Event()
    by_hand, by_event = Ticket("b", note(order, "by hand")), Ticket("c", note(order, "by event"), event)
    slot.submit(by_hand)
    slot.submit(by_event)
    slot.cancel(by_hand)
    event.set()
    gate.open.set()
    assert by_hand.done.wait(120.0) and by_event.done.wait(120.0)
    assert order == []


def test_a_crash_ends_its_own_job_alone(slot: JobQueue) -> None:
    def crash(ticket: Ticket) -> None:
        raise SystemExit("a job must not take the worker with it")

    order: list[str] = []
    broken, after = Ticket("a", crash), Ticket("a", note(order, "after"))
    slot.submit(broken)
    slot.submit(after)
    assert after.done.wait(120.0) and order == ["after"]
    assert isinstance(broken.error, SystemExit) and broken.error.__traceback__ is None


def test_the_queue_is_bounded_and_cancelled_jobs_make_room(slot: JobQueue) -> None:
    gate = Gate(slot)
    mine = [Ticket("me", note([], "")) for _ in range(5)]
    for ticket in mine[:4]:
        slot.submit(ticket)
    with pytest.raises(StudioError, match="You have 4 jobs in the queue already"):
        slot.submit(mine[4])
    for number in range(2):
        slot.submit(Ticket(f"other {number}", note([], "")))
    with pytest.raises(StudioError, match="The queue is full"):
        slot.submit(Ticket("late", note([], "")))
    mine[0].cancel()
    slot.submit(Ticket("late", note([], "")))
    gate.open.set()


def test_what_a_job_says_is_heard_in_order(slot: JobQueue) -> None:
    def work(ticket: Ticket) -> None:
        for word in ("one", "two"):
            ticket.say(word)

    ticket = Ticket("a", work)
    slot.submit(ticket)
    assert [ticket.hear(120.0), ticket.hear(120.0), ticket.hear(0.0)] == ["one", "two", None]


def test_closing_stops_the_job_at_hand_and_the_waiting_ones() -> None:
    slot = JobQueue()
    gate, waiting = Gate(slot), Ticket("b", note([], ""))
    slot.submit(waiting)
    slot.close(timeout=120.0)
    assert gate.ticket.done.is_set() and waiting.done.is_set()
    with pytest.raises(StudioError, match="closed"):
        slot.submit(Ticket("c", note([], "")))


def test_a_keep_drops_what_was_used_the_longest_ago() -> None:
    keep: ByteLRU[bytes] = ByteLRU(10, len)
    for key in "abc":
        keep.put(key, b"....")
    assert "a" not in keep and keep.get("b") == b"...."
    keep.put("d", b"....")  # "b" has been used since "c" was put
    assert [key in keep for key in "bcd"] == [True, False, True]
    keep.put("large", b"." * 20)
    assert len(keep) == 1 and keep.get("large") is not None
