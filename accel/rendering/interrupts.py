"""Ctrl-C once finishes the job at hand; twice stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # schedulers send the second one before they take a machine away


class InterruptFlag:
    """Whether somebody has asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked


@contextmanager
def stoppable(say: Callable[[str], None]) -> Iterator[InterruptFlag]:
    """Listens to Ctrl-C and SIGTERM for the duration of the block. Only a program's main thread can."""
    stop = InterruptFlag()

    def heard(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        say("finishing the job at hand; Ctrl-C again stops at once")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {number: signal.signal(number, heard) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
