"""From a click to a run of the studio and back: requests in the name of a visitor, who can stop them at any moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from html import escape

import gradio as gr

from accel.app.pair import Pair, StudioError, Update
from accel.app.progress import note_html, problem_html, progress_html, steady

Start = Callable[[str, threading.Event], Generator[Update, None, None]]
"""Begins a run for a visitor, which stops when the event is set."""


@dataclass(frozen=True)
class Moment:
    """What a page shows of a run: a line of state, whether it is still under way, and what there is so far."""

    html: str
    busy: bool = True
    pair: Pair | None = None
    points: tuple[Pair, ...] = ()


class Running:
    """The runs under way, by visitor. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, set[threading.Event]] = {}

    def follow(self, user: str, start: Start) -> Generator[Update, None, None]:
        """The updates of a run. It stops when this iterator is closed, and at once when `stop` is called for the user.

        gradio closes iterators only between two updates, which can be a whole step apart; the event is seen inside of
        the step.
        """
        event = threading.Event()
        with self._lock:
            self._events.setdefault(user, set()).add(event)
        try:
            yield from start(user, event)
        finally:
            event.set()
            with self._lock:
                self._events[user].discard(event)
                if not self._events[user]:
                    del self._events[user]

    def watch(self, request: gr.Request, start: Start) -> Generator[Moment, None, None]:
        """The same for a page: not too often, and errors in words, also those of `start`. The last one is not busy."""
        yield Moment(progress_html(Update("waiting")))
        try:
            with closing(steady(self.follow(visitor(request), start))) as updates:
                for update in updates:
                    html = note_html(update.note) if update.stage == "done" and update.note else progress_html(update)
                    yield Moment(html, update.stage != "done", update.pair, update.points)
        except (StudioError, ValueError) as error:
            gr.Warning(escape(str(error)))
            yield Moment(problem_html(str(error)), busy=False)

    def stop(self, request: gr.Request) -> int:
        """Stops all runs of this visitor; how many there were."""
        with self._lock:
            events = list(self._events.get(visitor(request), ()))
        for event in events:
            event.set()
        return len(events)

    def stop_quietly(self, request: gr.Request) -> None:
        """The same for a button, which has no place for the number."""
        self.stop(request)


def visitor(request: gr.Request) -> str:
    """Who asks: one open page, or one client. Not a person, and of no use elsewhere."""
    return str(request.session_hash or "")
