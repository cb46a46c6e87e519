"""What holds on models that were left out of the choice: `python -m benchmarks.holds` (`make holds`).

Every candidate setting runs on every judge, scheduler, guidance scale and length, each prompt with a seed of its own,
beside the unaccelerated pipeline and, clip by clip, beside fewer steps with as many calls as were computed. For each
judge the setting is then chosen by all *other* judges, and the table shows how that one does on it. With `--rivals`
other libraries' caches run on the same clips, and a second table shows the greatest speed at which each keeps a
promise.

Runs are kept in OUT/runs.jsonl as they end; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from accel.api import accelerate
from accel.caching.extrapolate import Extrapolate
from accel.caching.methods.schedules import OptimalSchedule
from accel.journal import append_line, entries_of
from accel.measure.metrics import Clip, psnr
from accel.session import Session
from benchmarks.command import add_judges
from benchmarks.judges import JUDGES, Judge
from benchmarks.judges.home import HOME, Home
from benchmarks.rivals import rivals

SHARES = (0.66, 0.5, 0.42, 0.34, 0.28, 0.22)
STEPS = (50, 28)
PLAIN = "plain"
# What a gain above fewer steps counts at most: beyond, a setting is not better for having more of it on an easy judge.
ENOUGH = 6.0
SLACK = 0.5  # dB by which more compute may be worse
CANDIDATES: dict[str, dict[str, Any]] = {
    f"dense {dense}, reach {reach:g}": {"predictor": Extrapolate(reach=reach), "dense": dense}
    for dense, reach in ((14, 0.16), (14, 0.12), (10, 0.16), (20, 0.16))
}
"""Settings of `OptimalSchedule` that may become the default. Its guard is the presets' (`benchmarks.presets`)."""


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
        self.case, self._out, self._known, self._speeds = case, out, known, speeds
        self._beside: tuple[str, float] = ("", 0.0)
        self.judge = named(case.judge)
        self.pipe: DiffusionPipeline = self.judge.load(case.scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        self._references: dict[int, Clip] = {}

    def plain(self, prompts: int) -> None:
        """The unaccelerated pipeline, and fewer steps with as many calls as the shares compute."""
        for prompt in range(prompts):
            self.fewer(self.case.steps, prompt)
            for share in SHARES:
                self.fewer(round(share * self.case.steps), prompt)

    def fewer(self, steps: int, prompt: int) -> None:
        """One clip in so many steps."""
        self._time_plain(fewer(steps), range(prompt, prompt + 1))
        self._measure(fewer(steps), prompt, steps=steps)

    def ours(self, label: str, cache: Any, prompts: Sequence[int]) -> None:
        """One setting, and beside each of its clips as many plain steps as it computed."""
        self._time_plain(label, prompts)
        with accelerate(self.pipe, cache=cache, attention=None, guidance=None, sampler=None) as session:
            computed = {prompt: self._measure(label, prompt, session=session) for prompt in prompts}
        for prompt, steps in computed.items():
            self.fewer(steps, prompt)

    def theirs(self, prompts: int) -> None:
        """Other libraries' caches at all of their settings."""
        for label, attach in rivals(self.pipe):
            self._time_plain(label, range(prompts))
            undo = attach(self.pipe)
            try:
                for prompt in range(prompts):
                    self._measure(label, prompt)
            finally:
                undo()

    def _time_plain(self, setting: str, prompts: Sequence[int]) -> None:
        """An unaccelerated clip, for the speed of a setting that is next: busy machines change by the minute."""
        unknown = any((self.case, setting, prompt) not in self._known for prompt in prompts)
        if self._speeds and unknown and setting != self._beside[0]:
            began = time.process_time()
            self._clip(prompts[0], self.case.steps)
            self._beside = (setting, time.process_time() - began)

    def _measure(self, setting: str, prompt: int, steps: int = 0, session: Session | None = None) -> int:
        """Runs and keeps one clip, if it is not known yet; the number of steps that it computed, as far as we know."""
        known = self._known.get((self.case, setting, prompt))
        if known is None:
            reference = self._reference(prompt, setting == fewer(self.case.steps))
            began = time.process_time()
            clip = self._clip(prompt, steps or self.case.steps)
            seconds = time.process_time() - began
            computed = steps or self.case.steps
            if session is not None:
                report = session.report()
                computed = round(report.computed / len(report.calls) * self.case.steps)
            known = Run(self.case, setting, prompt, psnr(clip, reference), computed, seconds, self._beside[1])
            self._known[self.case, setting, prompt] = known
            append_line(self._out, json.dumps(asdict(known)))
        return known.computed

    def _reference(self, prompt: int, bare: bool) -> Clip:
        if prompt not in self._references:
            path = self._out.parent / "references" / f"{self.case}, {prompt}.npy".replace(" ", "")
            if not path.is_file():
                if not bare:
                    raise ValueError(f"{self.case}: the unaccelerated clip {prompt} is to be made first.")
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, np.asarray(self._clip(prompt, self.case.steps)))
            self._references[prompt] = np.load(path)
        return self._references[prompt]

    def _clip(self, prompt: int, steps: int) -> Clip:
        return self.judge.clip(self.pipe, prompt, steps, self.case.guidance)


def read(folder: Path) -> list[Run]:
    """All runs in the files of a folder."""
    return [run for path in sorted(folder.glob("*.jsonl")) for run in entries_of(path, _run_of)]


def _run_of(data: dict[str, Any]) -> Run:
    return Run(**{**data, "case": Case(**data["case"])})


class Tables:
    """What the runs say."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs: dict[tuple[Case, str], list[Run]] = {}
        for run in runs:
            self._runs.setdefault((run.case, run.setting), []).append(run)
        self.cases = list(dict.fromkeys(run.case for run in runs))

    def clips(self, case: Case, setting: str) -> list[tuple[Run, Run]]:
        """Each with the one that took as many plain steps."""
        found = []
        for run in self._runs.get((case, setting), []):
            beside = self._runs.get((case, fewer(run.computed)), [])
            found += [(run, plain) for plain in beside if plain.prompt == run.prompt]
        return found

    def gains(self, case: Case, candidate: str, share: float) -> tuple[float, float] | None:
        """Above fewer steps: of the mean, and of the worst clip."""
        pairs = self.clips(case, f"{candidate} @ {share:g}")
        if not pairs:
            return None
        ours, plain = ([pair[side].psnr for pair in pairs] for side in (0, 1))
        return float(np.mean(ours) - np.mean(plain)), min(ours) - min(plain)

    def chosen_without(self, judge: str) -> str:
        """The candidate that is best above fewer steps on all other judges, mean and worst clip alike."""

        def merit(candidate: str) -> float:
            found = [
                gain
                for case in self.cases
                if case.judge != judge
                for share in SHARES
                for gain in self.gains(case, candidate, share) or ()
            ]
            return float(np.mean(np.minimum(found, ENOUGH))) if found else -np.inf

        return max(CANDIDATES, key=merit)

    def left_out(self) -> Iterator[str]:
        """A line for each case: fewer steps and what the setting chosen without this judge is above that."""
        yield f"| judge, scheduler, guidance, steps | chosen by the others | {' | '.join(map(str, SHARES))} |"
        yield "| --- " * (2 + len(SHARES)) + "|"
        for case in self.cases:
            candidate, cells = self.chosen_without(case.judge), []
            for share in SHARES:
                gain, pairs = self.gains(case, candidate, share), self.clips(case, f"{candidate} @ {share:g}")
                cells.append("")
                if gain:
                    computed = np.mean([run.computed for run, _ in pairs]) / case.steps
                    plain = np.mean([run.psnr for _, run in pairs])
                    cells[-1] = f"{computed:.2f}: {plain:.1f} {gain[0]:+.1f} ({gain[1]:+.1f})"
            yield f"| {case} | {candidate} | {' | '.join(cells)} |"

    def monotonic(self) -> str:
        """How often more compute is worse, in the mean of a case's clips, than the share below it."""
        pairs = worse = 0
        for case in self.cases:
            candidate = self.chosen_without(case.judge)
            means = [self._runs.get((case, f"{candidate} @ {share:g}"), []) for share in SHARES]
            levels = [float(np.mean([run.psnr for run in runs])) for runs in means if runs]
            pairs += max(len(levels) - 1, 0)
            worse += sum(more < less - SLACK for more, less in pairwise(levels))
        return f"More compute is worse by more than {SLACK:g} dB in {worse} of {pairs} pairs of neighbouring shares."

    def speeds(self, promise: float) -> Iterator[str]:
        """A line for each judge that rivals ran on: the greatest speed that keeps the promise on 95 % of clips."""
        ran = (setting.split(":")[0] for _, setting in self._runs if " @ " not in setting)
        kinds = [kind for kind in dict.fromkeys(ran) if kind != PLAIN]
        yield f"| at {promise:g} dB in 95 % of clips | ours | fewer steps | {' | '.join(kinds)} |"
        yield "| --- " * (3 + len(kinds)) + "|"
        for case in self.cases:
            if any(setting.split(":")[0] in kinds for at, setting in self._runs if at == case):
                labels = [self.chosen_without(case.judge), PLAIN, *kinds]
                cells = [self._fastest(case, label, promise) for label in labels]
                yield f"| {case} | {' | '.join(cells)} |"

    def _fastest(self, case: Case, label: str, promise: float) -> str:
        whole = float(np.mean([run.seconds for run in self._runs[case, fewer(case.steps)]]))
        kept = [
            float(np.mean([run.beside or whole for run in runs]) / np.mean([run.seconds for run in runs]))
            for (at, setting), runs in self._runs.items()
            if at == case and setting.startswith((f"{label} @", f"{label}:"))
            if np.mean([run.psnr >= promise for run in runs]) >= 0.95
        ]
        return f"{max(kept):.2f}x" if kept else "none"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Settings on judges that had no part in choosing them.")
    add_judges(parser, JUDGES)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--rivals", action="store_true", help="other libraries too, at 50 steps and high guidance")
    parser.add_argument("--table", action="store_true", help="only print what the runs so far say")
    parser.add_argument("--out", type=Path, default=Path("out/holds"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    # A file for each set of judges, so that two commands with different ones may run at once.
    path = options.out / f"{'-'.join(options.names)}.jsonl"
    known = {(run.case, run.setting, run.prompt): run for run in read(options.out)}
    for case in [] if options.table else cases(options.names):
        timed = options.rivals and case == cases([case.judge])[0]
        bench = Bench(case, path, known, speeds=timed)
        bench.plain(options.prompts)
        for candidate, settings in CANDIDATES.items():
            for share in SHARES:
                bench.ours(f"{candidate} @ {share:g}", OptimalSchedule(share, **settings), range(options.prompts))
        if timed:
            bench.theirs(options.prompts)
        print(f"{case}: done", flush=True)
    tables = Tables(read(options.out))
    print("\n".join(tables.left_out()))
    print(f"\n{tables.monotonic()}")
    for promise in (40.0, 30.0) if options.rivals else ():
        print("\n" + "\n".join(tables.speeds(promise)))


if __name__ == "__main__":
    main()
