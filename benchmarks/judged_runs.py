"""Clips of the judges, each beside the unaccelerated one: made once, kept in a file, and read back from it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from accel.api import accelerate
from accel.caching import Calibration
from accel.journal import append_line, entries_of
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
    """Runs one case, and keeps what ended in a file. speeds: each setting beside an unaccelerated clip of its own."""

    def __init__(self, case: Case, out: Path, known: dict[tuple[Case, str, int], Run], *, speeds: bool = False) -> None:
        self.case, self.out, self._known, self._speeds = case, out, known, speeds
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
        """One recipe, and beside each of its clips as many plain steps as it computed."""
        self._time_plain(label, prompts)
        with accelerate(self.pipe, recipe, calibration=calibration) as session:
            computed = {prompt: self._measure(label, prompt, session=session) for prompt in prompts}
        for prompt, steps in computed.items():
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

    def again(self, setting: str, attach: Attach, prompts: Sequence[int], steps: int, out: Path) -> None:
        """The seconds of known clips anew, each right after an unaccelerated clip of the same prompt, into a file."""
        for prompt in prompts:
            beside = self._seconds(prompt, self.case.steps)
            undo = attach(self.pipe)
            try:
                seconds = self._seconds(prompt, steps)
            finally:
                undo()
            known = self._known[self.case, setting, prompt]
            append_line(out, json.dumps(asdict(replace(known, seconds=seconds, beside=beside))))

    def _seconds(self, prompt: int, steps: int) -> float:
        began = time.process_time()
        self.clip(prompt, steps)
        return time.process_time() - began

    def _time_plain(self, setting: str, prompts: Sequence[int]) -> None:
        """An unaccelerated clip, for the speed of a setting that is next: busy machines change by the minute."""
        unknown = any((self.case, setting, prompt) not in self._known for prompt in prompts)
        if self._speeds and unknown and setting != self._beside[0]:
            self._beside = (setting, self._seconds(prompts[0], self.case.steps))

    def _measure(self, setting: str, prompt: int, steps: int = 0, session: Session | None = None) -> int:
        """Runs and keeps one clip, if it is not known yet; the number of steps that it computed, as far as we know."""
        known = self._known.get((self.case, setting, prompt))
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
            self._known[self.case, setting, prompt] = known
            append_line(self.out, json.dumps(asdict(known)))
        return known.computed

    def _reference(self, prompt: int, bare: bool) -> Clip:
        if prompt not in self._references:
            path = self.out.parent / "references" / f"{self.case}, {prompt}.npy".replace(" ", "")
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
    return [run for path in sorted(folder.glob("*.jsonl")) for run in entries_of(path, _run_of)]


def known_runs(folder: Path) -> dict[tuple[Case, str, int], Run]:
    """The same, by what `Bench` asks for: case, setting and number of the prompt."""
    return {(run.case, run.setting, run.prompt): run for run in read(folder)}


def _run_of(data: dict[str, Any]) -> Run:
    return Run(**{**data, "case": Case(**data["case"])})
