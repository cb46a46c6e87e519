"""How long torch's threads wait actively for one another, in the processes that are accel's own.

The threads of OpenMP (GNU's, which torch brings on Linux) spin at the end of each operation until the last one is done.
On a machine with other work to do that one may not be running at all, and those that spin take the processor from it.
A clip of the pocket model (15 steps, two threads, two cores with two to three other busy processes on them) takes 7 to
39 s like that, 5.7 to 9 s with 20,000 spins, 2.2 to 4.3 s with 3,000, 1.3 to 2.4 s with 1,000 and 0.7 to 1.4 s without
any. On an idle machine it takes 0.54 s, 0.49 s with 20,000 spins, 0.6 s with 1,000 and 1.1 s without any. In products
of width 1024 the differences are within 30 %. So spins are bounded to 1,000.

The library reads the environment once, when torch is loaded: this module is the first that `accel` imports. A process
of the user's that imports `accel` is left as it is, and so is what the user has set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SPINS = "1000"
VARIABLE = "GOMP_SPINCOUNT"
DECIDED_BY_USER = (VARIABLE, "OMP_WAIT_POLICY")


def is_own_command(command: Sequence[str]) -> bool:
    """Whether this command line runs `accel`, or a command of the repository (`python -m benchmarks.tuning`)."""
    _, *words = command
    if "-m" in words[:-1]:
        module = words[words.index("-m") + 1]
        return module.partition(".")[0] in ("accel", "benchmarks")
    return any(Path(word).stem == "accel" for word in words[:1])


def spinning_decided() -> bool:
    """Whether the environment says how long to spin."""
    return any(name in os.environ for name in DECIDED_BY_USER)


@contextmanager
def bounded_in_new_processes() -> Iterator[None]:
    """Processes that start in this block spin for a bounded time; this one, whose torch is loaded, goes on as ever."""
    if spinning_decided():
        yield
        return
    os.environ[VARIABLE] = SPINS
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)


if is_own_command(sys.orig_argv) and not spinning_decided():
    os.environ[VARIABLE] = SPINS  # for this process, whose torch is loaded next, and for those that it starts
