"""What a command takes on a machine with other work: idle, and beside processes that never stop, in turn.

    python -m benchmarks.busy                            # accel demo with one clip, beside two busy loops
    python -m benchmarks.busy --loops 4 --rounds 3 demo --clips 2 --preset fast

Beside busy loops a fair scheduler gives each thread that runs as much as each loop. So on C cores a command of T
threads takes at least min(T, C) (T + loops) / C T times as long as alone: on two cores beside two loops 1.5 times with
one thread, and twice with two. What is beyond that is lost: to threads that wait for one another while the one they
wait for is not running (`accel/spinning.py`), or to pages and caches. Processor time should stay as it is.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from accel import cli
from accel.terminal import show, waiting
from benchmarks.command import command_of

DEMO = ("demo", "--clips", "1", "--out", "out/busy")
LOOP = "while True: pass"


class Taken(NamedTuple):
    """Seconds by the clock on the wall and of processor time, and the load of the machine before."""

    wall: float
    processor: float
    load: float


def floor(cores: int, threads: int, loops: int) -> float:
    """How many times as long a command of so many threads takes beside so many loops, by a fair scheduler at least."""
    alone = min(threads, cores)
    beside = min(cores * threads / (threads + loops), alone)
    return alone / beside


def taken(command: Sequence[str]) -> Taken:
    """Runs it. Raises CalledProcessError, with what it wrote, where it fails."""
    load, before, begun = os.getloadavg()[0], _processor(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, text=True)
    return Taken(time.perf_counter() - begun, _processor() - before, load)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that never stop, for the duration of the block."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _processor() -> float:
    """Of the processes that this one has started, and that have ended: the loops count once they are stopped."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(options: argparse.Namespace) -> None:
    """Run a command idle and beside busy loops, in turn."""
    command = [str(Path(sys.executable).with_name("accel")), *(options.arguments or DEMO)]
    found: dict[int, list[Taken]] = {0: [], options.loops: []}
    with waiting("running") as status:
        for turn in range(options.rounds):
            for loops, runs in found.items():
                status.update(f"turn {turn + 1} of {options.rounds}, beside {loops} busy loops")
                with busy_loops(loops):
                    runs.append(taken(command))
    show("| beside | wall-clock s | processor s | load before |\n| --- | --- | --- | --- |")
    for loops, runs in found.items():
        for run in runs:
            show(f"| {loops} loops | {run.wall:.1f} | {run.processor:.1f} | {run.load:.1f} |")
    idle, busy = (min(run.wall for run in runs) for runs in found.values())
    cores, said = len(os.sched_getaffinity(0)), f"{busy / idle:.2f} times as long beside {options.loops} loops"
    least = ", ".join(f"{floor(cores, threads, options.loops):.2f} with {threads}" for threads in range(1, cores + 1))
    show(f"\n{said}; a fair scheduler makes it, by the number of threads on {cores} cores, at least {least}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = command_of("benchmarks.busy", compare)
    parser.add_argument("--loops", type=int, default=2, help="busy processes beside it (2)")
    parser.add_argument("--rounds", type=int, default=1, help="turns; the shortest of each counts (1)")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=f"arguments of accel ({' '.join(DEMO)})")
    return cli.run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
