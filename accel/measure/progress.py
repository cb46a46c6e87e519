"""How far a measurement is, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from accel.terminal import lines_now_and_then, one_line


@contextmanager
def run_progress(shown: bool, runs: int) -> Iterator[tuple[Callable[..., None], Callable[[int], None]]]:
    """A progress bar over `runs` runs as (tick(text, advance), extend(more))."""
    if not shown:
        yield (lambda text, advance=1: None), (lambda more: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # On stderr, so that the table can be piped.
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=runs)
        shown_task = bar.tasks[task]
        begun = False

        def tick(text: str, advance: int = 1) -> None:
            nonlocal begun
            bar.update(task, description=one_line(text), advance=advance if begun else 0)
            begun = begun or advance > 0

        def extend(more: int) -> None:
            total = bar.tasks[task].total or 0
            bar.update(task, total=total + more)

        with lines_now_and_then(
            lambda: f"{shown_task.completed:g} of {shown_task.total:g} runs; {shown_task.description}"
        ):
            yield tick, extend
        bar.update(task, description="done", completed=bar.tasks[task].total or 0)
