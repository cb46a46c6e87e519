"""Workers on a Ray cluster: one actor for each GPU. Nodes may come and go while it renders."""

from __future__ import annotations

import queue
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from accel.rendering.engine import DriverCallbacks
from accel.rendering.folder import OWN
from accel.rendering.jobs import JobGroup
from accel.rendering.outcome import WorkerSettings
from accel.rendering.pool import Pool
from accel.rendering.worker import Loader
from accel.rendering.worker_loop import Event, work_loop


class Ray:
    """An engine on the cluster at `address` ("auto", "ray://host:10001", "host:6379"), or on a new one of this machine.

    Args:
        address: of a cluster; None starts one here, unless this process is connected already.
        workers: actors; None is one for each GPU of the cluster, or for each core where it has no GPUs.
        load: as for `Processes`.
        runtime_env: Ray's own description of what the nodes need, such as {"py_modules": ["accel.whl"]}; left out,
            accel and diffusers must be installed on each. The repository as working_dir does not do: its root folders
            are not the packages.

    An actor that dies is replaced, its jobs are tried again, and a node that is lost costs the jobs that were at hand.
    Nodes that do not share the output folder send files to the driver; models and pictures to start from must be where
    each node can read them. Clusters with token authentication (Ray 2.59 and later) take the token from
    RAY_AUTH_TOKEN, see `ray get-auth-token`.

    Raises ImportError where Ray is not installed, and ConnectionError, in `run`, for a cluster that does not answer.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        load: Loader | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ValueError(f"workers must be a whole number from 1, not {workers!r}.")
        try:
            import ray  # noqa: F401
        except ImportError:
            raise ImportError("Ray is not installed; pip install 'diffusers-accel[ray]'.") from None
        self.address, self.workers = address, workers
        self._load, self._runtime_env = load, runtime_env

    def run(self, groups: Sequence[JobGroup], settings: WorkerSettings, desk: DriverCallbacks) -> None:
        import ray

        with self._connected(desk):
            resources: dict[str, float] = ray.cluster_resources()
            gpus = int(resources.get("GPU", 0)) if settings.device != "cpu" else 0
            workers = self.workers or max(1, gpus or int(resources.get("CPU", 1)))
            token = settings.parts / f"{uuid.uuid4().hex}.shared"
            token.touch()
            try:
                crew = _RayCrew(settings, self._load, token, gpu=gpus > 0)
                Pool(crew, workers, groups, settings, desk).run()
            except ray.exceptions.RayError as error:
                desk.trouble(f"The cluster does not answer any more: {_first_line(error)}")
            finally:
                token.unlink(missing_ok=True)

    @contextmanager
    def _connected(self, desk: DriverCallbacks) -> Iterator[None]:
        import logging

        import ray

        if ray.is_initialized():
            yield
            return
        desk.say("connecting to Ray" if self.address else "starting Ray")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._runtime_env is not None:
            options["runtime_env"] = dict(self._runtime_env)
        if self.address is None:
            options["include_dashboard"] = False  # it runs whatever it is sent
        with _own_signals():
            ray.init(self.address, **options)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes signals for itself that the driver listens to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RayWorker:
    """The actor: a worker in a thread, and two queues, which Ray serves from two more threads.

    token: a file that the driver made in the folder of parts. Where it cannot be seen, the folder is not shared.
    """

    def __init__(self, settings: WorkerSettings, load: Loader | None, token: Path) -> None:
        self._inbox: queue.Queue[JobGroup | None] = queue.Queue()
        self._outbox: queue.Queue[Event] = queue.Queue()
        self._parts: Path | None = None
        send: Callable[[Event], None] = self._outbox.put
        if not token.is_file():
            self._parts = Path(tempfile.mkdtemp(prefix="accel-")) / OWN / "parts"
            self._parts.mkdir(parents=True)
            settings, send = replace(settings, parts=self._parts), self._with_file
        arguments = (settings, self._inbox.get, send)
        threading.Thread(target=work_loop, args=arguments, kwargs={"load": load}, daemon=True).start()

    def send(self, piece: JobGroup | None) -> None:
        self._inbox.put(piece)

    def events(self) -> list[Event]:
        """What was said since the last call; waits until there is something."""
        found = [self._outbox.get()]
        with suppress(queue.Empty):
            while True:
                found.append(self._outbox.get_nowait())
        return found

    def _with_file(self, event: Event) -> None:
        if self._parts is not None and event.outcome is not None and event.outcome.part:
            part = self._parts / event.outcome.part
            event = replace(event, data=part.read_bytes())
            part.unlink()
        self._outbox.put(event)


class _RayLink:
    """An actor, and the call that returns when it has something to say."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.said = actor.events.remote()

    def send(self, piece: JobGroup) -> None:
        self.actor.send.remote(piece)

    def end(self) -> None:
        self.kill()

    def kill(self) -> None:
        import ray

        with suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self.actor, no_restart=True)


class _RayCrew:
    """Never lets Ray restart an actor or repeat a call: it would repeat the call on the actor that is restarting."""

    def __init__(self, settings: WorkerSettings, load: Loader | None, token: Path, *, gpu: bool) -> None:
        import ray

        self._arguments = settings, load, token
        self._actor = ray.remote(RayWorker).options(
            num_cpus=1,
            num_gpus=int(gpu),
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,
            scheduling_strategy="SPREAD",
        )

    def start(self, number: int) -> _RayLink:
        return _RayLink(self._actor.remote(*self._arguments))

    def listen(self, links: Sequence[_RayLink], seconds: float) -> list[tuple[_RayLink, Event]]:
        import ray

        by_call = {link.said: link for link in links}
        ready, _ = ray.wait(list(by_call), num_returns=1, timeout=seconds)
        return [(by_call[call], event) for call in ready for event in self._heard(by_call[call])]

    def _heard(self, link: _RayLink) -> list[Event]:
        import ray

        try:
            events: list[Event] = ray.get(link.said)
        except ray.exceptions.RayError as error:
            return [Event("dead", _first_line(error))]
        link.said = link.actor.events.remote()
        return events


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
