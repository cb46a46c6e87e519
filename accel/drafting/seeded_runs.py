"""Runs of one call of a pipeline with several seeds, each to its end or to a share of it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from accel.api import accelerate
from accel.components import components_of
from accel.drafting.call_memory import CallMemory, attached
from accel.drafting.early_end import EarlyEnd, above, below
from accel.drafting.initial_noise import InitialNoise, heard
from accel.drafting.own_layers import Slot
from accel.measure.pipeline_runs import check_seed, needs_prompt, without_progress_bars
from accel.session import bare

_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
_TURNS: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class SeededRun:
    """One run. output: what the pipeline returned.

    spent: samples that denoisers evaluated, without the `reused` that were remembered. Times are of this run alone, in
    seconds on the clock and of this process.
    """

    output: Any
    spent: int
    reused: int
    seconds: float
    cpu_seconds: float


RunSeed = Callable[..., SeededRun]
"""run(seed, memory, end=None, begin=None): see `SeededRuns.accelerated`."""


class SeededRuns:
    """Calls a pipeline as `pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed), **call)` would.

    What else draws from torch's global state is given the seed too, and the state is put back. The pipeline comes back
    as it was after each run, accelerated or not, also after an error. Runs that several threads ask of one pipeline
    take turns.
    """

    def __init__(self, pipe: Any, prompt: str | None, call: Mapping[str, Any]) -> None:
        components_of(pipe)  # or it is no pipeline
        if "generator" in call:
            raise ValueError("The noise is made here: give seeds instead of generator=...")
        if not (prompt is None or isinstance(prompt, str)):
            raise TypeError(
                f"Seeds are looked at for one prompt at a time: give a string, not {type(prompt).__name__}."
            )
        several = next((name for name in _COUNTS if call.get(name, 1) not in (None, 1)), None)
        if several:
            raise ValueError(f"Each seed makes one picture or clip: leave {several} out and ask for more seeds.")
        self.pipe, self._call = pipe, dict(call)
        if prompt is not None and needs_prompt(pipe, call):
            self._call["prompt"] = prompt

    @contextmanager
    def accelerated(self, recipe: Any) -> Iterator[RunSeed]:
        """The pipeline with this recipe (what `accel.accelerate` takes) for any number of runs.

        Yields a function of the seed, the memory of its runs, and optionally where this one ends early and what happens
        to its noise.
        """
        memory, ending, noise = Slot(CallMemory()), Slot(EarlyEnd(1.0)), Slot(InitialNoise())
        with (
            for_oneself(self.pipe),
            attached(self.pipe, memory),
            heard(self.pipe, noise),
            below(self.pipe, ending),
            accelerate(self.pipe, recipe) as session,
            above(session, ending),
        ):

            def run(
                seed: int, mine: CallMemory, end: EarlyEnd | None = None, begin: InitialNoise | None = None
            ) -> SeededRun:
                memory.value, ending.value, noise.value = mine, end or EarlyEnd(1.0), begin or InitialNoise()
                return self._run(seed, memory.value, ending.value)

            yield run

    def once(self, seed: int) -> Any:
        """What the pipeline, as it is, returns with this seed."""
        check_seed(seed)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            return self.pipe(**self._call, generator=torch.Generator("cpu").manual_seed(seed))

    def _run(self, seed: int, memory: CallMemory, end: EarlyEnd) -> SeededRun:
        spent, reused = memory.rows, memory.reused
        start, cpu_start = time.perf_counter(), time.process_time()
        output = self.once(seed)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        return SeededRun(output, memory.rows - spent, memory.reused - reused, seconds, cpu_seconds)


@contextmanager
def for_oneself(pipe: Any) -> Iterator[None]:
    """The pipeline without its session and its progress bars; blocks of several threads take turns."""
    with _turn(pipe), bare(pipe), without_progress_bars(pipe):
        yield


def _turn(pipe: Any) -> threading.RLock:
    return _TURNS.setdefault(pipe, threading.RLock())


def several_seeds(seeds: Any) -> list[int]:
    """A number of seeds, from 0, or the seeds themselves."""
    found = list(range(seeds)) if isinstance(seeds, int) else list(seeds) if isinstance(seeds, Iterable) else []
    if not found or len(set(found)) != len(found) or not all(isinstance(one, int) and one >= 0 for one in found):
        raise ValueError(f"seeds is a number of seeds, or different whole numbers from 0 on, not {seeds!r}.")
    return found


def check_share(share: float) -> None:
    """Raises ValueError for what is no share of a run."""
    if isinstance(share, bool) or not (isinstance(share, (int, float)) and 0.0 < share <= 1.0):
        raise ValueError(f"A share of a run is above 0 and at most 1, not {share!r}.")
