"""How far a render has got, and when it will be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from accel.terminal import lines_now_and_then, one_line


class Progress(Protocol):
    def say(self, text: str) -> None: ...

    def advance(self, failed: bool) -> None: ...


class Silent:
    def say(self, text: str) -> None:
        pass

    def advance(self, failed: bool) -> None:
        pass


@contextmanager
def progress(shown: bool, total: int, done: int) -> Iterator[Progress]:
    """A bar on stderr over `total` jobs, `done` of which are there from earlier runs. The time left is judged by the
    jobs of this run alone.
    """
    if not shown:
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Bar(*columns, TextColumn("{task.description}", markup=False), console=Console(stderr=True)) as bar:
        shown_bar = _Bar(bar, total, done)
        with lines_now_and_then(shown_bar.line):
            yield shown_bar


class _Bar:
    def __init__(self, bar: Any, total: int, done: int) -> None:
        self._bar, self._failed = bar, 0
        self._task = bar.add_task("starting", total=total, completed=done)

    def line(self) -> str:
        task = self._bar.tasks[self._task]
        return f"{task.completed:g} of {task.total:g} jobs; {task.description}"

    def say(self, text: str) -> None:
        text = one_line(text)
        self._bar.update(self._task, description=f"{text}{f' ({self._failed} failed)' if self._failed else ''}")

    def advance(self, failed: bool) -> None:
        self._failed += failed
        self._bar.advance(self._task)
