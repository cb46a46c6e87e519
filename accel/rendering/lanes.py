"""The lanes of one model: a pipeline object for each, brought to what a job needs, and a thread where two overlap."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any

import torch

from accel.api import accelerate
from accel.components import components_of
from accel.rendering.beside import pipeline_beside, why_in_turn
from accel.rendering.jobs import Job, digest
from accel.rendering.stages import Place, Stages
from accel.text_cache import Answers, TextCache

LANES = 2


class Lane:
    """One pipeline object, with the session of the jobs at hand and the texts that were encoded."""

    def __init__(self, pipe: Any, answers: Answers) -> None:
        self.pipe = pipe
        self.session: Any = None
        self.work: Future[None] | None = None
        self._recipe: str | None = None
        self._context: Any = None
        self._memo = TextCache(pipe, answers, lambda: self._context)

    @property
    def recipe(self) -> str | None:
        """What tells its recipe from others."""
        return self._recipe

    def bring_to(self, job: Job) -> None:
        """Gives the pipeline the job's recipe. It stays while the next job needs the same."""
        if self._recipe != digest(job.recipe):
            self.session = accelerate(self.pipe, job.build_recipe())
            self._recipe = digest(job.recipe)
        self._context = job.guidance, digest(job.arguments), digest(job.weights)

    def drop_session(self) -> None:
        session, self.session, self._recipe = self.session, None, None
        if session is not None:
            session.restore()

    def close(self) -> None:
        """The pipeline as it was."""
        self._memo.detach()
        self.drop_session()


class Turn:
    """One piece of work among others: outcomes are told in the order in which the pieces were begun."""

    def __init__(self, before: threading.Event | None, stages: Stages | None, in_turn: str) -> None:
        self._in_turn = in_turn
        self.told = threading.Event()
        self.may_begin = threading.Event()  # the next one
        self._before, self._stages = before, stages

    def place(self, *, alone: bool) -> Place:
        """Where the next call of the pipeline is."""
        return Place(self._stages, alone=alone, left=self.may_begin.set)

    @property
    def in_turn(self) -> str:
        """Why everything that follows is alone; "" while it is not."""
        return self._in_turn if self._stages is None else self._stages.in_turn

    def keep_apart(self, reason: str) -> None:
        """Everything that follows is alone."""
        if self._stages is not None:
            self._stages.in_turn = reason

    def wait(self) -> None:
        """Until everything before it has been told."""
        if self._before is not None:
            self._before.wait()


class Lanes:
    """One lane, whose work is done by the caller, or two with a thread each.

    failed: is told at once of what the work in a thread raises.
    The threads of two lanes share torch's threads on the CPU, unless OMP_NUM_THREADS says how many each has.
    """

    def __init__(
        self, pipe: Any, *, overlap: bool, failed: Callable[[BaseException], object] = lambda error: None
    ) -> None:
        self._failed = failed
        pipes, self._in_turn = _pipes(pipe) if overlap else ([pipe], "")
        self._stages = Stages(components_of(pipe)) if len(pipes) > 1 else None
        answers = Answers()
        self.lanes = [Lane(each, answers) for each in pipes]
        self._threads = torch.get_num_threads()
        self._pools = [_pool(self._threads) for _ in pipes] if self._stages is not None else []
        self._told: threading.Event | None = None
        self._working: dict[int, int] = {}  # by lane, the thread that works for it
        self._lock = threading.Lock()

    def lane_for(self, job: Job) -> Lane:
        """A lane without work, as soon as there is one, with the recipe of the job. Raises what its last work has
        raised.
        """
        lane = self._free()
        with self._stages.still() if self._stages is not None else nullcontext():
            lane.bring_to(job)
        return lane

    def _free(self) -> Lane:
        while True:
            for lane in self.lanes:
                if lane.work is None or lane.work.done():
                    self._collect(lane)
                    return lane
            wait([lane.work for lane in self.lanes if lane.work is not None], return_when=FIRST_COMPLETED)

    def begin(self, lane: Lane, work: Callable[[Turn], None]) -> None:
        """Does the work, or begins it in the lane's thread and returns when the next may begin.

        Raises what the work has raised by then.
        """
        turn = Turn(self._told, self._stages, self._in_turn)
        if self._stages is None:
            work(turn)
            return
        self._told = turn.told
        number = self.lanes.index(lane)
        lane.work = self._pools[number].submit(copy_context().run, self._do, number, work, turn)
        lane.work.add_done_callback(lambda _: turn.may_begin.set())
        turn.may_begin.wait()
        if lane.work.done():
            self._collect(lane)

    def drain(self) -> None:
        """Waits until no lane has work. Raises what the first of them has raised."""
        wait([lane.work for lane in self.lanes if lane.work is not None])
        for lane in self.lanes:
            self._collect(lane)

    def stop(self) -> None:
        """Ctrl-C for the threads of all lanes, as in the main one: whatever they do ends with a KeyboardInterrupt."""
        if self._stages is not None:
            self._stages.stop()
        with self._lock:
            for thread in self._working.values():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))

    def close(self) -> None:
        """When no lane has work, or all were stopped: gives the pipeline back as it was, and ends the threads."""
        wait([lane.work for lane in self.lanes if lane.work is not None])
        for lane in self.lanes:
            lane.close()
        for pool in self._pools:
            pool.shutdown()
        if self._stages is not None:
            self._stages.close()
            torch.set_num_threads(self._threads)

    def _collect(self, lane: Lane) -> None:
        work, lane.work = lane.work, None
        if work is not None:
            work.result()

    def _do(self, number: int, work: Callable[[Turn], None], turn: Turn) -> None:
        try:
            with self._lock:
                self._working[number] = threading.get_ident()
            work(turn)
        except Exception as error:
            self._failed(error)
            raise
        finally:
            turn.told.set()
            with self._lock:
                del self._working[number]


def _pipes(pipe: Any) -> tuple[list[Any], str]:
    """A pipeline object for each lane; only the one, and why, where there cannot be several."""
    if reason := why_in_turn(pipe):
        return [pipe], reason
    try:
        return [pipe, *(pipeline_beside(pipe) for _ in range(LANES - 1))], ""
    except Exception as error:  # a scheduler or guider of somebody's own may refuse
        return [pipe], f"the pipeline cannot be copied ({error})"


def _pool(threads: int) -> ThreadPoolExecutor:
    """One thread that computes as the caller does, with its share of torch's threads."""
    share = threads if "OMP_NUM_THREADS" in os.environ else max(1, threads // LANES)
    gradients = torch.is_grad_enabled()

    def begin() -> None:
        torch.set_num_threads(share)
        torch.set_grad_enabled(gradients)

    return ThreadPoolExecutor(1, "accel-lane", begin)
