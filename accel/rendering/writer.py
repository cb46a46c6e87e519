"""A thread that turns frames into files while the device works on the next job."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Task = Callable[[], None]
WAITING = 2
"""Jobs that may wait to be written. More would only fill memory: a disk that is too slow stays too slow."""


class Writer:
    """Runs tasks in order in one thread. An error in a task ends the work: `failed` is told at once, and the next `put`
    or `close` raises it.

    The libraries that compress pictures and videos let go of Python's lock meanwhile.
    """

    def __init__(self, waiting: int = WAITING, failed: Callable[[BaseException], object] = lambda error: None) -> None:
        self._failed = failed
        self._tasks: queue.Queue[Task | None] = queue.Queue(waiting)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="accel-writer", daemon=True)
        self._thread.start()

    def put(self, task: Task) -> None:
        """Adds a task; waits while too many are waiting."""
        self._raise()
        self._tasks.put(task)

    def close(self) -> None:
        """Waits until everything is written, and ends the thread."""
        self._tasks.put(None)
        self._thread.join()
        self._raise()

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                if task is None:
                    return
                if self._error is None:
                    task()
            except BaseException as error:  # it belongs to the thread that waits for the files
                self._error = error
                self._failed(error)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
