"""Who gets which jobs, and what happens to the jobs of workers that die. The workers here are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from accel.rendering.batches import make_batches
from accel.rendering.engine import DriverCallbacks
from accel.rendering.failures import OutputError
from accel.rendering.jobs import Job, JobGroup
from accel.rendering.outcome import JobOutcome, WorkerSettings
from accel.rendering.pool import Pool
from accel.rendering.processes import Processes, devices_for, threads_for
from accel.rendering.ray_engine import RayWorker
from accel.rendering.work_queue import ATTEMPTS, WorkQueue
from accel.rendering.worker_loop import Event
from tests.rendering import hands

Script = Callable[["Actor", JobGroup], list[Event]]


def good(actor: Actor, piece: JobGroup) -> list[Event]:
    ends = [Event("ended", outcome=JobOutcome(job.id, "ok")) for job in piece.jobs]
    return [Event("begun"), *ends, Event("free")]


class Actor:
    """A worker that answers each piece as it is told to."""

    def __init__(self, number: int, script: Script) -> None:
        self.number, self.script, self.alive = number, script, True
        self.said = [Event("up")]
        self.pieces: list[JobGroup] = []

    def send(self, piece: JobGroup) -> None:
        self.pieces.append(piece)
        self.said += self.script(self, piece)

    def end(self) -> None:
        pass

    def kill(self) -> None:
        self.alive = False


class Troupe:
    """Workers that follow a script."""

    def __init__(self, script: Script = good) -> None:
        self.script = script
        self.actors: list[Actor] = []

    def start(self, number: int) -> Actor:
        self.actors.append(Actor(number, self.script))
        return self.actors[-1]

    def listen(self, links: Sequence[Actor], seconds: float) -> list[tuple[Actor, Event]]:
        heard = [(link, event) for link in links for event in link.said]
        for link in links:
            link.said = []
        return heard


class Office:
    """A desk that writes down what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[JobOutcome] = []
        self.troubles: list[str] = []
        self.stop = False
        self.desk = DriverCallbacks(self.outcomes.append, lambda text: None, lambda: self.stop, self.troubles.append)

    def statuses(self, jobs: Sequence[Job]) -> list[list[str]]:
        return [[outcome.status for outcome in self.outcomes if outcome.id == job.id] for job in jobs]


def jobs_of(model: str, count: int, **fields: Any) -> list[Job]:
    return [Job(model, prompt=f"{model} {number}", **fields) for number in range(count)]


def calls(jobs: Sequence[Job], batch: int = 1) -> list[JobGroup]:
    return list(make_batches(jobs, {job.id for job in jobs}, batch, lambda model: None))


def run(troupe: Troupe, jobs: Sequence[Job], parts: Path, workers: int = 2, batch: int = 1) -> Office:
    office = Office()
    Pool(troupe, workers, calls(jobs, batch), WorkerSettings(parts), office.desk).run()
    assert not any(actor.alive for actor in troupe.actors)
    return office


def test_workers_part_models_and_then_help_each_other(tmp_path: Path) -> None:
    troupe, jobs = Troupe(), jobs_of("a", 2) + jobs_of("b", 6)
    assert run(troupe, jobs, tmp_path).statuses(jobs) == [["ok"]] * 8
    first, second = ([piece.first.model for piece in actor.pieces] for actor in troupe.actors)
    assert first == ["a", "a", "b", "b"] and second == ["b"] * 4


def test_a_worker_stays_with_its_recipe_and_size() -> None:
    small, large = jobs_of("a", 3, width=16), jobs_of("a", 3, width=32)
    pieces = WorkQueue(calls(small + large, batch=2))
    first = pieces.take(None, [], unburdened=True)
    assert first is not None and first.jobs == tuple(small[:2]), "a piece is what fits one call"
    second = pieces.take(None, [first], unburdened=True)
    assert second is not None and second.first.width == 32, "a second worker begins where nobody is"
    third = pieces.take(first, [second], unburdened=True)
    assert third is not None and third.jobs == tuple(small[2:])


def test_a_job_that_kills_its_worker_fails_alone(tmp_path: Path) -> None:
    """When the worker dies first, the file of the job before is still being written. So both jobs are suspects, come
    last and each alone, and the innocent one succeeds.
    """
    jobs = jobs_of("a", 8)
    innocent, culprit = jobs[3], jobs[4]

    def script(actor: Actor, piece: JobGroup) -> list[Event]:
        if piece.first == culprit:
            return [Event("begun"), Event("dead", "killed by SIGKILL")]
        if piece.first == innocent and len(troupe.actors) == 1:
            return [Event("begun"), Event("free")]
        return good(actor, piece)

    troupe = Troupe(script)
    part = tmp_path / f"{culprit.id}-1-1.part"
    part.write_bytes(b"half")
    office = run(troupe, jobs, tmp_path, workers=1)
    assert office.statuses(jobs) == [["ok"]] * 4 + [["failed"]] + [["ok"]] * 3
    second = [piece.first for piece in troupe.actors[1].pieces]
    assert second == [*jobs[5:], innocent, culprit] and len(troupe.actors) == ATTEMPTS
    failure = next(outcome for outcome in office.outcomes if outcome.status == "failed")
    assert failure.error["type"] == "WorkerDied" and "killed by SIGKILL" in failure.error["message"]
    assert office.troubles == [f"Workers that died and were replaced: {ATTEMPTS} (killed by SIGKILL)."]
    assert not part.exists()


def test_deaths_before_a_piece_is_begun_are_no_jobs_fault(tmp_path: Path) -> None:
    """As when memory does not suffice for as many models as there are workers."""

    def script(actor: Actor, piece: JobGroup) -> list[Event]:
        return good(actor, piece) if actor.number == 0 else [Event("dead", "killed by SIGKILL")]

    jobs = jobs_of("a", 20)
    troupe = Troupe(script)
    office = run(troupe, jobs, tmp_path)
    assert office.statuses(jobs) == [["ok"]] * 20
    assert [actor.number for actor in troupe.actors] == [0] + [1] * ATTEMPTS
    assert office.troubles[0].startswith("Worker 2 is given up")


def test_where_all_workers_are_given_up_the_jobs_stay_open(tmp_path: Path) -> None:
    office = run(Troupe(lambda actor, piece: [Event("broken", "no driver")]), jobs_of("a", 3), tmp_path)
    assert office.outcomes == [] and len(office.troubles) == 3


def test_a_model_that_cannot_be_loaded_is_tried_once(tmp_path: Path) -> None:
    def script(actor: Actor, piece: JobGroup) -> list[Event]:
        return [Event("model", "no such model")] if piece.first.model == "a" else good(actor, piece)

    jobs = jobs_of("a", 5) + jobs_of("b", 2)
    troupe = Troupe(script)
    office = run(troupe, jobs, tmp_path, workers=1)
    assert office.statuses(jobs) == [[]] * 5 + [["ok"]] * 2 and office.troubles == ["no such model"]
    assert len(troupe.actors[0].pieces) == 3


def test_a_disk_that_is_full_ends_everything(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="full"):
        run(Troupe(lambda actor, piece: [Event("begun"), Event("output", "it is full")]), jobs_of("a", 3), tmp_path)


def test_to_stop_means_the_jobs_at_hand_and_no_model_more(tmp_path: Path) -> None:
    office, jobs = Office(), jobs_of("a", 4)

    def script(actor: Actor, piece: JobGroup) -> list[Event]:
        office.stop = True
        return good(actor, piece) if actor.number == 0 else []  # the second one is still loading

    Pool(Troupe(script), 2, calls(jobs), WorkerSettings(tmp_path), office.desk).run()
    assert sorted(office.statuses(jobs)) == [[], [], [], ["ok"]]


def test_workers_take_turns_on_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices_for("cuda", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices_for("cuda:1", 2) == ["cuda:1", "cuda:1"] and devices_for("cpu", 2) == ["cpu", "cpu"]
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads_for(["cpu"] * 3) == 2 and threads_for(["cuda:0"]) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads_for(["cpu"] * 3) is None


def test_what_cannot_be_is_said() -> None:
    import accel

    with pytest.raises(ValueError, match="workers must be a whole number from 1, not 0"):
        Processes(0)
    with pytest.raises(ValueError, match="give the model's name instead of a pipeline"):
        accel.render(hands.Plain(), ["a"], workers=2)


def test_a_node_that_does_not_see_the_folder_sends_its_files(tmp_path: Path) -> None:
    """The actor of a Ray node is a plain class; `token` stands for a file in the driver's folder."""
    job = Job("plain", prompt="one")
    token = tmp_path / "token"
    station = RayWorker(WorkerSettings(tmp_path), hands.load, token)
    station.send(JobGroup((job,)))
    ended = ending(station)
    assert ended.outcome is not None and ended.data is not None and ended.outcome.bytes == len(ended.data)
    assert list(tmp_path.iterdir()) == []
    station.send(None)

    token.touch()
    near = RayWorker(WorkerSettings(tmp_path), hands.load, token)
    near.send(JobGroup((job,)))
    ended_here = ending(near)
    assert ended_here.outcome is not None and ended_here.data is None
    assert (tmp_path / ended_here.outcome.part).read_bytes() == ended.data
    near.send(None)


def ending(station: RayWorker) -> Event:
    while True:
        for event in station.events():
            if event.kind == "ended":
                return event
