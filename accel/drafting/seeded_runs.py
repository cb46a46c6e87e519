"""Runs of one call of a pipeline with several seeds, each to its end or to a share of it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from accel.api import accelerate
from accel.drafting.call_memory import CallMemory
from accel.drafting.early_end import EarlyEnd
from accel.measure.runner import needs_prompt, without_progress_bars
from accel.session import bare

_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
_TURNS: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class SeededRun:
    """One run. output: what the pipeline returned; planned: see `EarlyEnd`.

    spent: samples that denoisers evaluated, without the `reused` that were remembered. Times are of this run alone, in
    seconds on the clock and of this process.
    """

    output: Any
    ended_early: bool
    planned: tuple[int, ...]
    spent: int
    reused: int
    seconds: float
    cpu_seconds: float

    @property
    def unaccelerated(self) -> int:
        """The samples that denoisers evaluate in a run without levers: every step as the one that evaluates most."""
        return max(self.planned) * len(self.planned)


class SeededRuns:
    """Calls a pipeline as `pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed), **call)` would.

    What else draws from torch's global state is given the seed too, and the state is put back. The pipeline comes back
    as it was after each run, accelerated or not, also after an error. Runs that several threads ask of one pipeline
    take turns.
    """

    def __init__(self, pipe: Any, prompt: str | None, call: Mapping[str, Any]) -> None:
        if "generator" in call:
            raise ValueError("The noise is made here: give seeds instead of generator=...")
        if not (prompt is None or isinstance(prompt, str)):
            raise TypeError(f"Seeds are looked at for one prompt at a time: give a string, not {type(prompt).__name__}.")
        several = next((name for name in _COUNTS if call.get(name, 1) not in (None, 1)), None)
        if several:
            raise ValueError(f"Each seed makes one picture or clip: leave {several} out and ask for more seeds.")
        self.pipe, self._call = pipe, dict(call)
        if prompt is not None and needs_prompt(pipe, call):
            self._call["prompt"] = prompt

    def run(self, seed: int, recipe: Any, memory: CallMemory, share: float = 1.0) -> SeededRun:
        """recipe: what `accel.accelerate` takes. Ends early at less than the whole `share` of the run."""
        end, rows, reused = EarlyEnd(share), memory.rows, memory.reused
        with (
            _turn(self.pipe),
            bare(self.pipe),
            without_progress_bars(self.pipe),
            memory.attached(self.pipe),
            end.below(self.pipe),
            accelerate(self.pipe, recipe) as session,
            end.above(session),
            torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        ):
            torch.manual_seed(seed)
            generator = torch.Generator("cpu").manual_seed(seed)
            start, cpu_start = time.perf_counter(), time.process_time()
            output = self.pipe(**self._call, generator=generator)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        return SeededRun(
            output, end.ended, end.per_step, memory.rows - rows, memory.reused - reused, seconds, cpu_seconds
        )


def _turn(pipe: Any) -> threading.RLock:
    return _TURNS.setdefault(pipe, threading.RLock())
