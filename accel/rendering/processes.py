"""Several workers on this machine, each a process of its own: one for each GPU, or as many as asked for on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from accel.rendering.engine import DriverCallbacks
from accel.rendering.jobs import JobGroup
from accel.rendering.outcome import WorkerSettings
from accel.rendering.pool import Pool
from accel.rendering.worker import Loader
from accel.rendering.worker_loop import Event, work_loop
from accel.spinning import bounded_in_new_processes

END_SECONDS = 5


class Processes:
    """An engine of `workers` processes. A process that dies is replaced, and its jobs are tried again.

    load: a function of a module (not of a script) that returns the pipeline for a model's name, where accel's own way
        does not do: `load(model, dtype=..., device=...)`. Each process calls it once for each model.

    Where there are GPUs, worker i has the i-th; more workers than GPUs share them. On the CPU the workers share the
    threads that torch has here, unless OMP_NUM_THREADS says how many each has. The files are those of a single process
    with as many threads, bit for bit: another number of threads may add in another order.

    A script that renders with processes must do so below `if __name__ == "__main__":`, because each process imports it.
    """

    def __init__(self, workers: int, load: Loader | None = None) -> None:
        if type(workers) is not int or workers < 1:
            raise ValueError(f"workers must be a whole number from 1, not {workers!r}.")
        if getattr(load, "__module__", "") == "__main__":
            raise ValueError("load must be a function of a module, because other processes import it by name.")
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ValueError('a script must render with several workers below `if __name__ == "__main__":`.')
        self.workers, self._load = workers, load

    def run(self, groups: Sequence[JobGroup], settings: WorkerSettings, desk: DriverCallbacks) -> None:
        devices = devices_for(settings.device, self.workers)
        Pool(_ProcessCrew(settings, devices, self._load), self.workers, groups, settings, desk).run()


def devices_for(device: str | None, workers: int) -> list[str | None]:
    """A device for each worker: accelerators take turns, a device with a number is for all."""
    kind = device
    if kind is None:
        from accel.loading import best_device

        kind = best_device()
    if kind == "cpu" or ":" in kind:
        return [kind] * workers
    backend = getattr(torch, kind, None)
    count = backend.device_count() if backend is not None and hasattr(backend, "device_count") else 1
    return [f"{kind}:{number % count}" if count > 1 else kind for number in range(workers)]


def threads_for(devices: Sequence[str | None]) -> int | None:
    """Threads of torch for each worker; None leaves them alone."""
    if any(device != "cpu" for device in devices) or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, torch.get_num_threads() // len(devices))


class _ProcessLink:
    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self._ends = False

    def send(self, piece: JobGroup) -> None:
        with suppress(OSError):  # it is dead, which its end of the connection tells as well
            self.connection.send(piece)

    def end(self) -> None:
        self._ends = True
        with suppress(OSError):
            self.connection.send(None)

    def kill(self) -> None:
        if self._ends:
            self.process.join(END_SECONDS)
        self.process.kill()
        self.process.join()
        self.connection.close()


class _ProcessCrew:
    def __init__(self, settings: WorkerSettings, devices: Sequence[str | None], load: Loader | None) -> None:
        self._settings, self._devices, self._load = settings, devices, load
        self._threads = threads_for(devices)
        # A forked process would inherit a lock of torch that nobody opens any more, and no CUDA.
        self._context = multiprocessing.get_context("spawn")

    def start(self, number: int) -> _ProcessLink:
        settings = replace(self._settings, device=self._devices[number])
        ours, theirs = self._context.Pipe()  # each has its own: a queue for all stays locked when one is killed
        process = self._context.Process(
            target=_work, args=(theirs, settings, self._load, self._threads), name=f"accel-worker-{number + 1}"
        )
        with _without_signals(), bounded_in_new_processes():
            process.start()
        theirs.close()
        return _ProcessLink(process, ours)

    def listen(self, links: Sequence[_ProcessLink], seconds: float) -> list[tuple[_ProcessLink, Event]]:
        if not links:
            time.sleep(seconds)
        ready = wait([link.connection for link in links], seconds)
        return [(link, event) for link in links if link.connection in ready for event in _receive(link)]


def _receive(link: _ProcessLink) -> Iterator[Event]:
    try:
        while link.connection.poll():
            yield link.connection.recv()
    except (EOFError, OSError):  # everything that it said before is heard
        link.process.join(END_SECONDS)
        yield Event("dead", _how_it_died(link.process.exitcode))


def _how_it_died(code: int | None) -> str:
    if code is None:
        return "it does not answer"
    if code >= 0:
        return f"it ended with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


@contextmanager
def _without_signals() -> Iterator[None]:
    """What starts here does not hear Ctrl-C, which reaches all processes of a terminal: the driver says when to end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, settings: WorkerSettings, load: Loader | None, threads: int | None) -> None:
    """The whole life of a process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, name="accel-lifeline", daemon=True).start()
    turn = threading.Lock()

    def send(event: Event) -> None:
        with turn:
            connection.send(event)

    with suppress(EOFError, BrokenPipeError, ConnectionError):  # the driver is gone
        work_loop(settings, connection.recv, send, load=load, threads=threads)


def _end_with_driver() -> None:
    """However the driver ends, a worker does not outlive it, not even for the job at hand: nobody would record it."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)
