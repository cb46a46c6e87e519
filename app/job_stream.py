"""A job as a stream of updates: ordered when the first one is asked for, cancelled when nobody listens any more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator

from accel.app.job_queue import JobQueue, Ticket
from accel.app.pair import Cancelled, StudioError, Update
from accel.rendering.memory import free_memory, is_out_of_memory

Updates = Generator[Update, None, None]

_LISTEN_SECONDS = 0.1
_LONGEST_SENTENCE = 400
_WORDED = (ValueError, TypeError, OSError, RuntimeError, ImportError)  # whose messages are for people
_log = logging.getLogger("accel.app")


def job_updates(slot: JobQueue, work: Callable[[Ticket], None], user: str, cancel: threading.Event | None) -> Updates:
    """What `work` says in the queue's thread, and before that its place in the queue.

    Raises Cancelled where `cancel` was set, and StudioError with a sentence where the work failed.
    """
    ticket = Ticket(user, lambda ticket: _guarded(work, ticket), cancel)
    slot.submit(ticket)
    try:
        yield from _next_update(slot, ticket)
    finally:
        slot.cancel(ticket)


def _next_update(slot: JobQueue, ticket: Ticket) -> Updates:
    """What is said of a job until it ends."""
    position: int | None = None
    while True:
        ended = ticket.done.is_set()  # asked first, so that all that was said before the end is heard
        said: Update | None = ticket.hear(0.0 if ended else _LISTEN_SECONDS)
        if said is not None:
            yield said
            if said.stage == "done":
                return
            continue
        if ended:
            break
        if ticket.cancelled:
            slot.cancel(ticket)
        now = slot.position(ticket)
        if now is not None and now != position:
            position = now
            yield Update("waiting", position=now)
    raise ticket.error or Cancelled("The run was cancelled.")


def _guarded(work: Callable[[Ticket], None], ticket: Ticket) -> None:
    """Turns what a job raises into a sentence, and lets go of the error, which leads to all that the job held."""
    try:
        work(ticket)
        return
    except Cancelled:
        if not ticket.late:
            raise
        told = "The run took longer than this server allows, and was stopped; make it smaller."
    except StudioError:
        raise
    except Exception as error:
        _log.exception("A job failed.")
        told = sentence(error)
    free_memory()
    raise StudioError(told)


def sentence(error: BaseException) -> str:
    """What went wrong, for a person."""
    if isinstance(error, StudioError):
        return str(error)
    if is_out_of_memory(error):
        return "The device ran out of memory; make the size or the number of frames smaller."
    text = str(error).strip().partition("\n")[0][:_LONGEST_SENTENCE]
    if not text or not isinstance(error, _WORDED):
        return f"The run failed ({type(error).__name__}); the server's log says more."
    return text[:1].upper() + text[1:]
