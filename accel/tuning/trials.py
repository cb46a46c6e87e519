"""Trials: real runs of candidates on the search clips, each done once and written down, so that a tuning that
was interrupted goes on where it stopped."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from accel.journal import Journal
from accel.measure.call_arguments import fewest_steps_of
from accel.measure.environment import environment
from accel.measure.output import METRICS, Metric, PipelineOutput, fidelity, output_of
from accel.measure.pipeline_runs import attach_for_run
from accel.measure.sound import Sound, sampling_rate
from accel.recipe import Recipe
from accel.session import Session
from accel.tuning.clip_split import PromptSeed

SCHEMA = 1
# Of trials, glances and unaccelerated runs. Earlier versions kept all of them in the first: such a folder is refused.
JOURNAL, GLANCES, UNACCELERATED = "journal.jsonl", "glances.jsonl", "unaccelerated.jsonl"
# After so many unaccelerated runs' time the machine's pace is measured again, by a run of this share of the steps.
PACE_EVERY, PACE_SHARE = 3.0, 0.1
GLANCE_STEPS = 3


@dataclass(frozen=True)
class Trial:
    """One real run of a recipe: metrics against the unaccelerated output, time over the unaccelerated run's at the pace
    that the machine had then, computed steps over the steps asked for, and which levers did nothing.
    """

    recipe: str  # its label and hash, see `key_of`
    shot: int
    values: Mapping[str, float]
    time: float
    computed: float
    idle: Mapping[str, str]  # lever to reason, of those that did nothing

    @property
    def key(self) -> tuple[str, int]:
        return self.recipe, self.shot


@dataclass(frozen=True)
class Glance:
    """A short run of one method: whether it acts here, why not, and the seconds of denoising and of all around it over
    those of an unaccelerated run as short, 1 where it does not act.
    """

    recipe: str
    engaged: bool
    reason: str
    denoise: float = 1.0
    around: float = 1.0

    @property
    def key(self) -> str:
        return self.recipe


@dataclass(frozen=True)
class UnacceleratedRun:
    """Seconds of an unaccelerated run: all, and denoising alone. What it made has files of its own."""

    shot: int
    seconds: float
    denoise: float

    @property
    def key(self) -> int:
        return self.shot


class TrialRunner:
    """Runs recipes on one pipeline and compares with its unaccelerated outputs, which are kept in `folder`.

    Journals there have one line for each run. A folder of another model, prompts or settings is refused with
    ValueError, because its runs would be taken for runs of this one (`accel.journal`).
    """

    def __init__(
        self,
        pipe: Any,
        shots: Sequence[PromptSeed],
        steps: int,
        arguments: Mapping[str, Any],
        metrics: Mapping[str, Metric],
        folder: Path,
        identity: Mapping[str, Any],
    ) -> None:
        self.pipe, self.shots, self.steps, self.metrics, self.folder = pipe, tuple(shots), steps, dict(metrics), folder
        self.arguments, self.fewest = dict(arguments), fewest_steps_of(pipe, arguments)
        self._device = str(environment(pipe)["device"])
        self.runs = 0  # of recipes, in this process
        self.asked: set[tuple[str, int]] = set()  # the same, and those that were found in the journal
        self._short: list[float] | None = None  # an unaccelerated run of so few steps: denoising, all around it
        self._waited: list[float] = []  # of the runs that were made here: seconds by the clock on the wall
        self._paced = (-math.inf, 0.0)  # when the pace was measured, and an unaccelerated run's seconds at that pace
        head = {"schema": SCHEMA, "shots": [list(shot) for shot in shots], "steps": steps, **identity}
        self.trials = Journal(folder / JOURNAL, head, Trial)
        self._glances = Journal(folder / GLANCES, head, Glance)
        self._unaccelerated = Journal(folder / UNACCELERATED, head, UnacceleratedRun)

    def trial(self, recipe: Recipe, shot: int) -> Trial:
        """The run of this recipe on this shot: from the journal, else made now."""
        key = key_of(recipe)
        self.asked.add((key, shot))
        known = self.trials.get((key, shot))
        if known is not None and set(self.metrics) <= set(known.values):
            return known
        reference = self.reference(shot)
        pace = self._pace()
        with attach_for_run(self.pipe, recipe) as session:
            made, seconds = self._call(shot, self.steps)
            report = session.report()
        self.runs += 1
        values = self._judge(made, reference)
        idle = {lever.lever: lever.reason for lever in report.levers if not lever.engaged}
        computed = len({(call.run, call.step) for call in report.calls if call.action == "computed"}) / self.steps
        return self.trials.add(Trial(key, shot, values, seconds / pace, computed, idle))

    def _judge(self, made: PipelineOutput, reference: PipelineOutput) -> dict[str, float]:
        ours = [name for name, metric in self.metrics.items() if METRICS.get(name) is metric]
        others = {name: metric for name, metric in self.metrics.items() if name not in ours}
        found = {name: float(metric(made.main, reference.main)) for name, metric in others.items()}
        return fidelity(made, reference, ours) | found

    def reference(self, shot: int) -> PipelineOutput:
        """The unaccelerated output."""
        known = self._kept(shot) if shot in self._unaccelerated else None
        if known is not None:
            return known
        begun = time.monotonic()
        with attach_for_run(self.pipe, Recipe()) as session:
            made, denoise, around = self._phases(session, shot, self.steps)
        self._waited.append(time.monotonic() - begun)
        self._keep(shot, made)
        self._unaccelerated.add(UnacceleratedRun(shot, denoise + around, denoise))
        return made

    def _keep(self, shot: int, made: PipelineOutput) -> None:
        """Each part whole or not at all."""
        parts = {"": made.frames, "-sound": made.sound.samples if made.sound else None}
        for suffix, part in parts.items():
            if part is not None:
                partial = self.folder / f"unaccelerated-{shot}{suffix}.part.npy"
                np.save(partial, part)
                partial.replace(self.folder / f"unaccelerated-{shot}{suffix}.npy")

    def _kept(self, shot: int) -> PipelineOutput | None:
        frames, samples = (self._read_part(shot, suffix) for suffix in ("", "-sound"))
        rate = sampling_rate(self.pipe)
        sound = None if samples is None or rate is None else Sound(samples, rate)
        return PipelineOutput(frames, sound) if frames is not None or sound is not None else None

    def _read_part(self, shot: int, suffix: str) -> Any:
        path = self.folder / f"unaccelerated-{shot}{suffix}.npy"
        return np.asarray(np.load(path), np.float32) if path.exists() else None

    def warm_up(self, steps: int = 4) -> None:
        """A short run, so that what is built lazily does not count as somebody's time."""
        with attach_for_run(self.pipe, Recipe()):
            self._call(0, self._short_run(steps))

    def glance(self, recipe: Recipe) -> Glance:
        """A method in a short run: from the journal, else made now. What it converts in its first call is not timed."""
        key = key_of(recipe)
        return self._glances.once(key, lambda: self._glance(key, recipe))

    def _glance(self, key: str, recipe: Recipe) -> Glance:
        steps = self._short_run(GLANCE_STEPS)
        if self._short is None:
            with attach_for_run(self.pipe, Recipe()) as session:
                _, *self._short = self._phases(session, 0, steps)
        with attach_for_run(self.pipe, recipe) as session:
            self._call(0, steps)
            (lever,) = session.report().levers
            found = Glance(key, lever.engaged, lever.reason)
            if lever.engaged:
                _, *taken = self._phases(session, 0, steps)
                shares = (ours / max(plain, 1e-6) for ours, plain in zip(taken, self._short, strict=True))
                found = Glance(key, lever.engaged, lever.reason, *shares)
        return found

    @property
    def seconds(self) -> float:
        """Seconds of an unaccelerated run."""
        return median(run.seconds for run in self._unaccelerated.values())

    @property
    def wall(self) -> float:
        """The same by the clock on the wall, which on a busy machine is more than processor time."""
        return max(self.seconds, median(self._waited)) if self._waited else self.seconds

    @property
    def fixed(self) -> float:
        """Share of them that is not denoising."""
        denoising = median(run.denoise / run.seconds for run in self._unaccelerated.values())
        return max(0.0, min(1.0 - denoising, 0.95))

    def _pace(self) -> float:
        """Seconds of an unaccelerated run as the machine is now: others' work comes and goes, and a recipe must not be
        praised or blamed for it. Measured by a short run now and then; steps all take as long.
        """
        measured, seconds = self._paced
        if time.monotonic() - measured > PACE_EVERY * self.seconds:
            count = self._short_run(max(round(self.steps * PACE_SHARE), 2))
            with attach_for_run(self.pipe, Recipe()) as session:
                _, denoise, around = self._phases(session, 0, count)
            seconds = around + denoise * self.steps / count
            self._paced = (time.monotonic(), seconds)
        return seconds

    def _short_run(self, steps: int) -> int:
        """So many steps, and more where a call from a picture on would take none of them."""
        return min(max(steps, self.fewest), self.steps)

    def _phases(self, session: Session, shot: int, steps: int) -> tuple[PipelineOutput, float, float]:
        """The output, the seconds of denoising, and those of all around it: text, decoding, the rest."""
        made, seconds = self._call(shot, steps)
        phases = session.report().seconds
        denoise = seconds * phases["denoise"] / phases["total"]
        return made, denoise, seconds - denoise

    def _call(self, shot: int, steps: int) -> tuple[PipelineOutput, float]:
        import torch

        prompt, seed = self.shots[shot]
        generator = torch.Generator("cpu").manual_seed(seed)
        start = self._clock()
        output = self.pipe(**self.arguments, prompt=prompt, num_inference_steps=steps, generator=generator)
        made = output_of(output, self.pipe)  # on the CPU, so the device has finished
        return made, self._clock() - start

    def _clock(self) -> float:
        """Processor time where that is what the model runs on: it hears less of what else a machine does. The winner is
        judged by wall-clock time all the same."""
        on_processor = self._device == "cpu"
        return time.process_time() if on_processor else time.perf_counter()


def key_of(recipe: Recipe) -> str:
    """What identifies a recipe: its methods and all their parameters."""
    import hashlib

    data = {lever: method.to_dict() for lever, method in recipe.methods().items()}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
