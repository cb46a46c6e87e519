"""Which kernel was fastest where: measured by `accel.attention.measure`, kept in a recipe, and only read after that.

A clock must not choose while a pipeline runs. Kernels that all pass their tests still differ in their last bits, and
the same call has to give the same output every time. So times are taken once, when asked for, and what they say is part
of the method; a place that no verdict is about has a fixed order.
"""

from __future__ import annotations

import functools
import math
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import torch

DENSE = "dense"  # the model's own attention, among the names of kernels
REPEATS = 5
PACKAGES = ("torch", "xformers", "sageattention", "sageattn3")

_TIME = r"[\w ]+ [\d.e+-]+ ms"
_LINE = re.compile(rf"[^:]+, \d+/16: {_TIME}(?:, {_TIME})*")

K = TypeVar("K")


class Verdicts:
    """What was measured, by place: names from the fastest to the slowest.

    written: lines as `written` makes them.
    """

    def __init__(self, written: Sequence[str] = ()) -> None:
        self._orders: dict[str, list[str]] = {}
        self._places: set[str] = set()
        for line in written:
            where, _, times = line.rpartition(": ")
            self._orders[where] = [name.rsplit(" ", 2)[0] for name in times.split(", ")]
            self._places.add(where.rpartition(", ")[0])

    def about(self, q: torch.Tensor) -> bool:
        """Whether any density was measured for queries like these."""
        return bool(self._places) and place(q) in self._places

    def order(self, q: torch.Tensor, density: float) -> list[str] | None:
        """The names, the fastest first; None where it was not measured."""
        return self._orders.get(where(q, density)) if self._places else None

    def pays(self, q: torch.Tensor, density: float) -> bool | None:
        """Whether anything is faster than the model's own attention; None where it was not measured."""
        order = self.order(q, density)
        return None if order is None else order[0] != DENSE


def check_verdicts(method: object, measured: object) -> None:
    """Raises ValueError where these are not lines as `Stopwatch.written` makes them."""
    if not (isinstance(measured, tuple) and all(isinstance(line, str) and _LINE.fullmatch(line) for line in measured)):
        raise ValueError(
            f"{type(method).__name__}.measured must be what accel.attention.measure found, or (), not {measured!r}."
        )


def ranked(kernels: Sequence[K], names: Sequence[str]) -> list[K]:
    """These kernels in the order of their names; those that no verdict names come last, as they were."""
    by_name = {name: rank for rank, name in enumerate(names)}
    return sorted(kernels, key=lambda kernel: by_name.get(kernel.name, len(by_name)))  # type: ignore[attr-defined]


class Stopwatch:
    """Takes times at the first call of each place."""

    def __init__(self, now: Callable[[torch.device], float] | None = None) -> None:
        self._now = now or _seconds
        self._times: dict[str, dict[str, float]] = {}

    def knows(self, q: torch.Tensor, density: float) -> bool:
        """Whether this place has its times."""
        return where(q, density) in self._times

    def time(self, q: torch.Tensor, density: float, runs: Mapping[str, Callable[[], object]]) -> None:
        """The median of five of each, taken in turn, so that what disturbs one disturbs all."""
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(REPEATS):
            for name, run in runs.items():
                start = self._now(q.device)
                run()
                taken[name].append(self._now(q.device) - start)
        self._times[where(q, density)] = {name: sorted(some)[REPEATS // 2] for name, some in taken.items()}

    def written(self) -> tuple[str, ...]:
        """A line for each place, to be kept."""
        lines = []
        for place, times in self._times.items():
            order = sorted(times, key=times.__getitem__)
            lines.append(f"{place}: " + ", ".join(f"{name} {times[name] * 1e3:.3g} ms" for name in order))
        return tuple(lines)


_stopwatch: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


def stopwatch() -> Stopwatch | None:
    """The one of the measurement that is going on in this thread or task."""
    return _stopwatch.get()


@contextmanager
def timing(watch: Stopwatch) -> Iterator[Stopwatch]:
    """Attention within the block takes its times."""
    token = _stopwatch.set(watch)
    try:
        yield watch
    finally:
        _stopwatch.reset(token)


def where(q: torch.Tensor, density: float) -> str:
    """Device, data type, sequence, head width, versions and density, rounded up to sixteenths."""
    return f"{place(q)}, {min(math.ceil(density * 16 - 1e-6), 16)}/16"


def place(q: torch.Tensor) -> str:
    """The same without the density."""
    return _place(q.device, q.dtype, *q.shape[-2:])


@functools.cache
def _place(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> str:
    threads = f"{platform.machine()} {torch.get_num_threads()} threads"
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {threads}"
    versions = " ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    return f"{machine}, {str(dtype)[6:]}, {tokens} tokens of {width}, {versions}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _seconds(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
