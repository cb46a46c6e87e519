"""What runs inside a worker's own process, wherever that is: pieces of work come in, events go out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from accel.rendering.failures import OutputError
from accel.rendering.jobs import JobGroup
from accel.rendering.outcome import JobOutcome, WorkerSettings
from accel.rendering.worker import Loader, Worker

Kind = Literal["up", "begun", "ended", "free", "said", "model", "output", "broken", "dead"]


@dataclass(frozen=True)
class Event:
    """One thing that a worker says. Plain data, so that it travels.

    up: ready for the first piece. begun: the model for the piece is loaded. ended: a job has an outcome; its file comes
    as `data` where the folder of parts is out of the worker's reach. free: ready for another piece, while files are
    still written. said: for the progress bar. model, output: see ModelError, OutputError. broken: the process must be
    replaced. dead: said on its behalf.
    """

    kind: Kind
    text: str = ""
    outcome: JobOutcome | None = None
    data: bytes | None = None


def work_loop(
    settings: WorkerSettings,
    receive: Callable[[], JobGroup | None],
    send: Callable[[Event], None],
    *,
    load: Loader | None = None,
    threads: int | None = None,
) -> None:
    """Renders the pieces that `receive` returns until it returns None. `send` is called from several threads.

    threads: for torch on the CPU; None leaves them as they are.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if settings.device is not None and settings.device.startswith("cuda:"):
        torch.cuda.set_device(settings.device)  # some kernels are launched where the process is, not where tensors are
    try:
        with Worker(
            settings,
            lambda outcome: send(Event("ended", outcome=outcome)),
            say=lambda text: send(Event("said", text)),
            load=load,
            failed=lambda error: send(
                _end(error)
            ),  # an error of the last piece, when no call follows that could raise it
        ) as worker:
            send(Event("up"))
            while (piece := receive()) is not None:
                _render(worker, piece, send)
    except Exception as error:  # whatever it is, this process cannot go on
        send(_end(error))


def _end(error: BaseException) -> Event:
    if isinstance(error, OutputError):
        return Event("output", str(error))
    return Event("broken", f"{type(error).__name__}: {error}")


def _render(worker: Worker, piece: JobGroup, send: Callable[[Event], None]) -> None:
    try:
        worker.prepare(piece.first)
    except (ValueError, TypeError) as error:  # it cannot be loaded, or not be accelerated with this recipe
        send(Event("model", str(error)))
        return
    send(Event("begun"))
    worker.render(piece)
    send(Event("free"))
