"""How fast rendering a manifest is beside a plain loop over the pipeline: python -m benchmarks.rendering.

Both use one accelerated pipeline in one process, warm, and take turns in every repeat. The plain loop is
`pipe(prompt, ...)` and then the file, with the encoder's settings that `accel render` has. A render's time holds all
that it does: checks, fingerprint, ledger, page. Medians over the repeats, and of the ratios also the range.

The computing time (of all threads, per job) tells what remains where no core is free for the files. Several processes
are measured once all of them work, against the plain loop in its one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

import accel
from accel.loading import load_pipeline
from accel.measure.output import outputs_of
from accel.measure.pipeline_runs import without_progress_bars
from accel.pocket import prompts
from accel.rendering.batches import AUTO, Batch
from accel.rendering.encoding import encode
from accel.rendering.jobs import Job
from accel.rendering.processes import Processes

Pass = Callable[[Path], None]


class Work(NamedTuple):
    """One kind of jobs. `texts`: different prompts; each is rendered with as many seeds as it takes."""

    name: str
    model: str
    recipe: str | None
    steps: int
    frames: int
    texts: int


KINDS = (
    Work("few, pictures", "pocket:few", None, 4, 1, 1000),
    Work("few, clips", "pocket:few", None, 4, 17, 1000),
    Work("few, clips of one prompt", "pocket:few", None, 4, 17, 1),
    Work("video, fast, pictures", "pocket:video", "fast", 16, 1, 1000),
    Work("video, fast, clips", "pocket:video", "fast", 16, 17, 1000),
)


class Times(NamedTuple):
    """Milliseconds per job: what passed, and what was computed."""

    wall: float
    computed: float


def lines_of(work: Work, jobs: int) -> list[dict[str, Any]]:
    """The manifest. Prompts follow each other as a grid over seeds would have them."""
    texts = prompts(min(work.texts, jobs), seed=0)
    common = {"steps": work.steps, "frames": work.frames}
    return [{"prompt": texts[n % len(texts)], "seed": n // len(texts), **common} for n in range(jobs)]


def plain_loop(pipe: Any, lines: list[dict[str, Any]]) -> Pass:
    """What one would write without `accel render`."""

    def run(folder: Path) -> None:
        for number, line in enumerate(lines):
            output = pipe(
                line["prompt"],
                num_inference_steps=line["steps"],
                num_frames=line["frames"],
                generator=torch.Generator("cpu").manual_seed(line["seed"]),
            )
            data, suffix = encode(Job("plain"), outputs_of(output)[0], embed=False)
            (folder / f"{number}{suffix}").write_bytes(data)

    return run


def rendering(pipe: Any, lines: list[dict[str, Any]], batch: Batch) -> Pass:
    def run(folder: Path) -> None:
        summary = accel.render(pipe, lines, folder, batch=batch, progress_bar=False)
        if not summary.complete:
            raise RuntimeError(str(summary))

    return run


def timed(run: Pass, jobs: int) -> Times:
    with TemporaryDirectory() as folder:
        wall, computed = time.perf_counter(), time.process_time()
        run(Path(folder))
        wall, computed = time.perf_counter() - wall, time.process_time() - computed
    return Times(wall / jobs * 1e3, computed / jobs * 1e3)


def measured(runs: dict[str, Pass], jobs: int, repeats: int) -> dict[str, list[Times]]:
    """All in turn in every repeat, each time beginning with another one, after one round to get warm."""
    for run in runs.values():
        timed(run, jobs)
    found: dict[str, list[Times]] = {name: [] for name in runs}
    for name in in_turn(list(runs), repeats):
        found[name].append(timed(runs[name], jobs))
    return found


def in_turn(names: list[str], rounds: int) -> Iterator[str]:
    """All of them in every round, each time beginning with another one."""
    for number in range(rounds):
        first = number % len(names)
        yield from names[first:] + names[:first]


def bench(work: Work, table: Table, jobs: int, repeats: int) -> float:
    """Adds the rows of one kind of jobs. Returns the milliseconds per job of the plain loop."""
    pipe = load_pipeline(work.model)
    accel.accelerate(pipe, accel.Recipe() if work.recipe is None else work.recipe)
    lines = lines_of(work, jobs)
    runs = {"plain loop": plain_loop(pipe, lines)}
    runs |= {f"render, batch {batch}": rendering(pipe, lines, batch) for batch in (1, AUTO)}
    with without_progress_bars(pipe):
        found = measured(runs, jobs, repeats)
    plain = found["plain loop"]
    for name, times in found.items():
        ratios = sorted(reference.wall / own.wall for reference, own in zip(plain, times, strict=True))
        computed = statistics.median(
            reference.computed / own.computed for reference, own in zip(plain, times, strict=True)
        )
        table.add_row(
            work.name, name,
            f"{statistics.median(own.wall for own in times):.1f}",
            f"{statistics.median(own.computed for own in times):.1f}",
            *([] if times is plain else [
                f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}", f"{computed:.2f}"
            ]),
        )  # fmt: skip
    return statistics.median(own.wall for own in plain)


def bench_processes(work: Work, table: Table, jobs: int, workers: int, plain: float) -> None:
    """Adds the rows of several processes: their starts take seconds, whatever the manifest."""
    for batch in (1, AUTO):
        with TemporaryDirectory() as folder:
            accel.render(
                work.model, lines_of(work, jobs), folder, recipe=work.recipe or "off", batch=batch,
                engine=Processes(workers), progress_bar=False,
            )  # fmt: skip
            rate = steady_rate(Path(folder) / "ledger.jsonl", workers)
        table.add_row(
            work.name,
            f"render, batch {batch}, {workers} processes",
            f"{1e3 / rate:.1f}",
            "",
            f"{plain * rate / 1e3:.2f}",
        )


def steady_rate(ledger: Path, workers: int) -> float:
    """Jobs per second from the moment on when every worker has ended a job."""
    ended = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    pids = [entry["pid"] for entry in ended]
    start = next(number for number in range(len(pids)) if len(set(pids[: number + 1])) == workers)
    first, last = (datetime.fromisoformat(entry["time"]) for entry in (ended[start], ended[-1]))
    return (len(ended) - 1 - start) / (last - first).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=32, help="jobs of a pass (32)")
    parser.add_argument("--repeats", type=int, default=7, help="passes of each (7)")
    parser.add_argument("--only", default="", help="kinds of jobs whose name holds this")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes of the rows for several (2; 0 leaves them out)"
    )
    options = parser.parse_args()
    table = Table(title=f"{torch.get_num_threads()} threads of torch, {options.jobs} jobs, {options.repeats} repeats")
    for column in ("jobs", "", "ms/job", "computing", "speed", "range", "by computing"):
        table.add_column(column, justify="left" if column in ("jobs", "") else "right")
    for work in (work for work in KINDS if options.only in work.name):
        plain = bench(work, table, options.jobs, options.repeats)
        if options.workers:
            bench_processes(work, table, options.jobs * 4, options.workers, plain)
        table.add_section()
    Console(width=120).print(table)
    print(
        "few: pocket:few, unaccelerated, 4 steps. video, fast: pocket:video, preset fast, 16 steps. Clips: 17 frames."
    )


if __name__ == "__main__":
    main()
