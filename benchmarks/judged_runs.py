"""Clips of the judges, each beside the unaccelerated one: made once, kept in a file, and read back from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from accel.api import accelerate
from accel.caching import Calibration
from accel.journal import Journal, rows_of
from accel.measure.metrics import Clip, psnr
from accel.recipe import Recipe
from accel.session import Session
from benchmarks.judges import JUDGES, Judge
from benchmarks.judges.home import HOME, Home
from benchmarks.rivals import Attach

STEPS = (50, 28)
PLAIN = "plain"


@dataclass(frozen=True)
class Case:
    """One judge as it is called."""

    judge: str
    scheduler: str
    guidance: float
    steps: int

    def __str__(self) -> str:
        return f"{self.judge}, {self.scheduler}, {self.guidance:g}, {self.steps} steps"


@dataclass(frozen=True)
class Run:
    """One clip: PSNR against the unaccelerated one in dB, the steps that were computed, and processor seconds.

    beside: seconds of an unaccelerated clip right before the setting's; 0 where nobody asked for speeds.
    """

    case: Case
    setting: str
    prompt: int
    psnr: float
    computed: int
    seconds: float
    beside: float = 0.0

    @property
    def key(self) -> tuple[Case, str, int]:
        return self.case, self.setting, self.prompt


def named(judge: str) -> Judge | Home:
    """The judge, or the pocket model, of that name."""
    return JUDGES[judge] if judge in JUDGES else HOME[judge]


def fewer(steps: int) -> str:
    """The unaccelerated pipeline's setting with so many steps."""
    return f"{PLAIN}: {steps} steps"


def cases(names: Sequence[str]) -> list[Case]:
    """All of these judges, the higher guidance scale first."""
    return [
        Case(name, scheduler, guidance, steps)
        for name in names
        for steps in STEPS
        for guidance in reversed(named(name).guidance_scales)
        for scheduler in named(name).schedulers
    ]


class Bench:
    """Runs one case, and keeps what ended in a file, with the unaccelerated clips beside it. speeds: each setting
    beside an unaccelerated clip of its own.
    """

    def __init__(self, case: Case, out: Path, *, speeds: bool = False) -> None:
        self.case, self.folder, self._kept, self._speeds = case, out.parent, kept_in(out), speeds
        self._beside: tuple[str, float] = ("", 0.0)
        self.judge = named(case.judge)
        self.pipe: DiffusionPipeline = self.judge.load(case.scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        self._references: dict[int, Clip] = {}

    def plain(self, prompts: int, shares: Sequence[float]) -> None:
        """The unaccelerated pipeline, and fewer steps with as many calls as these shares compute."""
        for prompt in range(prompts):
            self.fewer(self.case.steps, prompt)
            for share in shares:
                self.fewer(round(share * self.case.steps), prompt)

    def fewer(self, steps: int, prompt: int) -> None:
        """One clip in so many steps."""
        self._time_plain(fewer(steps), range(prompt, prompt + 1))
        self._measure(fewer(steps), prompt, steps=steps)

    def ours(self, label: str, recipe: Recipe, prompts: Sequence[int], calibration: Calibration | None = None) -> None:
        """One recipe, and beside each of its clips as many plain steps as it computed, unless speeds are asked."""
        self._time_plain(label, prompts)
        with accelerate(self.pipe, recipe, calibration=calibration) as session:
            computed = {prompt: self._measure(label, prompt, session=session) for prompt in prompts}
        for prompt, steps in computed.items() if not self._speeds else ():
            self.fewer(steps, prompt)

    def theirs(self, label: str, attach: Attach, prompts: Sequence[int], steps: int) -> None:
        """Another library's cache, in so many steps."""
        self._time_plain(label, prompts)
        undo = attach(self.pipe)
        try:
            for prompt in prompts:
                self._measure(label, prompt, steps=steps)
        finally:
            undo()

    def again(self, setting: str, attach: Attach, prompts: Sequence[int], steps: int, kept: Journal[Run]) -> None:
        """The seconds of known clips anew, each right after an unaccelerated clip of the same prompt."""
        for prompt in prompts:
            beside = self._seconds(prompt, self.case.steps)
            undo = attach(self.pipe)
            try:
                seconds = self._seconds(prompt, steps)
            finally:
                undo()
            kept.add(replace(self._kept[self.case, setting, prompt], seconds=seconds, beside=beside))

    def knows(self, setting: str, prompts: Sequence[int]) -> bool:
        """Whether all these clips are known."""
        return all((self.case, setting, prompt) in self._kept for prompt in prompts)

    def below(self, setting: str, promise: float) -> int:
        """How many of its clips are known to be below so many dB."""
        known = (run for run in self._kept.values() if (run.case, run.setting) == (self.case, setting))
        return sum(run.psnr < promise for run in known)

    def _seconds(self, prompt: int, steps: int) -> float:
        began = time.process_time()
        self.clip(prompt, steps)
        return time.process_time() - began

    def _time_plain(self, setting: str, prompts: Sequence[int]) -> None:
        """An unaccelerated clip, for the speed of a setting that is next: busy machines change by the minute."""
        unknown = any((self.case, setting, prompt) not in self._kept for prompt in prompts)
        if self._speeds and unknown and setting != self._beside[0]:
            self._beside = (setting, self._seconds(prompts[0], self.case.steps))

    def _measure(self, setting: str, prompt: int, steps: int = 0, session: Session | None = None) -> int:
        """Runs and keeps one clip, if it is not known yet; the number of steps that it computed, as far as we know."""
        known = self._kept.get((self.case, setting, prompt))
        if known is None:
            reference = self._reference(prompt, setting == fewer(self.case.steps))
            began = time.process_time()
            clip = self.clip(prompt, steps or self.case.steps)
            seconds = time.process_time() - began
            computed = steps or self.case.steps
            if session is not None:
                report = session.report()
                computed = round(report.computed / len(report.calls) * report.steps)
            known = Run(self.case, setting, prompt, psnr(clip, reference), computed, seconds, self._beside[1])
            self._kept.add(known)
        return known.computed

    def _reference(self, prompt: int, bare: bool) -> Clip:
        if prompt not in self._references:
            path = self.folder / "references" / f"{self.case}, {prompt}.npy".replace(" ", "")
            if not path.is_file():
                if not bare:
                    raise ValueError(f"{self.case}: the unaccelerated clip {prompt} is to be made first.")
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, np.asarray(self.clip(prompt, self.case.steps)))
            self._references[prompt] = np.load(path)
        return self._references[prompt]

    def clip(self, prompt: int, steps: int) -> Clip:
        return self.judge.clip(self.pipe, prompt, steps, self.case.guidance)


def read(folder: Path) -> list[Run]:
    """All runs in the files of a folder."""
    return [run for path in sorted(folder.glob("*.jsonl")) for run in rows_of(path, _run)]


def kept_in(path: Path) -> Journal[Run]:
    """Runs that end in this file; those in other files of its folder, where another command may be running, are known.
    A run names all that is set, so that they have no settings in common.
    """
    beside = sorted(other for other in path.parent.glob("*.jsonl") if other != path)
    return Journal(path, {}, _run, beside)


def _run(case: dict[str, Any], **others: Any) -> Run:
    return Run(Case(**case), **others)
