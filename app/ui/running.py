"""From a click to a run of the studio and back: a visitor's requests, which they can stop at any time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from html import escape

import gradio as gr

from accel.app.limits import Limits
from accel.app.pair import Pair, SeedDraft, StudioError, Update
from accel.app.ui.progress import note_html, problem_html, progress_html, steady
from accel.app.visitors import Listeners, Visitor, visitor

Start = Callable[[str, threading.Event], Generator[Update, None, None]]
"""Begins a run for a visitor (`Visitor.browser`), which stops when the event is set."""


@dataclass(frozen=True)
class PageUpdate:
    """What a page shows of a run: a line of state, whether it is still under way, and what there is so far."""

    html: str
    busy: bool = True
    pair: Pair | None = None
    points: tuple[Pair, ...] = ()
    drafts: tuple[SeedDraft, ...] = ()


class StopEvent(threading.Event):
    """Set by hand, or because nobody has listened for a while to what a run says."""

    def __init__(self, who: Visitor, listeners: Listeners, patience: float) -> None:
        super().__init__()
        self.who = who
        self._silence = partial(listeners.silence, who.streams, time.monotonic())
        self._patience = patience

    def is_set(self) -> bool:
        return super().is_set() or self._silence() > self._patience


class Running:
    """The runs under way, waiting ones too. Thread-safe."""

    def __init__(self, limits: Limits, listeners: Listeners) -> None:
        self._limits, self._listeners = limits, listeners
        self._lock = threading.Lock()
        self._stops: set[StopEvent] = set()

    def follow(self, request: gr.Request, start: Start) -> Generator[Update, None, None]:
        """The updates of a run. It stops when this iterator is closed, and at once when `stop` is called for the
        visitor, or when nobody listens any more. Raises StudioError where too many come from one address.

        gradio closes iterators only between two updates, which can be a whole step apart; the event is seen inside of
        the step.
        """
        who = visitor(request)
        stop = StopEvent(who, self._listeners, self._limits.unheard_seconds)
        with self._lock:
            most = self._limits.queue_of_address
            if sum(other.who.address == who.address for other in self._stops) >= most:
                raise StudioError(f"{most} runs of your address wait already; let one of them finish.")
            self._stops.add(stop)
        try:
            yield from start(who.browser, stop)
        finally:
            stop.set()
            with self._lock:
                self._stops.discard(stop)

    def watch(self, request: gr.Request, start: Start) -> Generator[PageUpdate, None, None]:
        """The same for a page: not too often, and errors in words, also those of `start`. The last one is not busy."""
        yield PageUpdate(progress_html(Update("waiting")))
        try:
            with closing(steady(self.follow(request, start))) as updates:
                for update in updates:
                    html = note_html(update.note) if update.stage == "done" and update.note else progress_html(update)
                    yield PageUpdate(html, update.stage != "done", update.pair, update.points, update.drafts)
        except (StudioError, ValueError) as error:
            gr.Warning(escape(str(error)))
            yield PageUpdate(problem_html(str(error)), busy=False)

    def stop(self, request: gr.Request) -> int:
        """Stops all runs of this visitor; how many there were."""
        user = visitor(request).key
        with self._lock:
            own = [stop for stop in self._stops if stop.who.key == user]
        for stop in own:
            stop.set()
        return len(own)

    def stop_quietly(self, request: gr.Request) -> None:
        """The same for a button, which has no place for the number."""
        self.stop(request)
