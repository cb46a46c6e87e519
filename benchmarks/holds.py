"""What holds on models that were left out of the choice: `python -m benchmarks.holds` (`make holds`).

Every candidate setting runs on every judge, scheduler, guidance scale and length, each prompt with a seed of its own,
beside the unaccelerated pipeline and beside fewer steps with as many calls. For each judge the setting is then chosen
by all *other* judges, and the table shows how that one does on it. With `--rivals` other libraries' caches run on the
same clips, and a second table shows the greatest speed at which each keeps a promise.

Runs are kept in OUT/runs.jsonl as they end; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline

from accel.api import accelerate
from accel.caching.extrapolate import Extrapolate
from accel.caching.methods.schedules import OptimalSchedule
from accel.measure.metrics import Clip, psnr
from benchmarks.judges import JUDGES, Judge
from benchmarks.rivals import rivals

SHARES = (0.66, 0.5, 0.42, 0.34, 0.28, 0.22)
STEPS = (50, 28)
PLAIN = "plain"
# What a gain above fewer steps counts at most: beyond, a setting is not better for having more of it on an easy judge.
ENOUGH = 6.0
CANDIDATES: dict[str, tuple[float, float]] = {
    "damping 0.6, spread 0.25": (0.6, 0.25),
    "damping 0.4, spread 0.25": (0.4, 0.25),
    "damping 0.8, spread 0.25": (0.8, 0.25),
    "damping 0.6, spread 0.15": (0.6, 0.15),
    "damping 0.6, spread 0.35": (0.6, 0.35),
}
"""Settings that may become the default, as (damping, spread)."""


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
    """One clip: PSNR against the unaccelerated one in dB, the share of steps that compute if set, processor seconds."""

    case: Case
    setting: str
    prompt: int
    psnr: float
    share: float
    seconds: float


def cases(names: Sequence[str]) -> list[Case]:
    """All of these judges, the higher guidance scale first."""
    return [
        Case(name, scheduler, guidance, steps)
        for name in names
        for steps in STEPS
        for guidance in reversed(JUDGES[name].guidance_scales)
        for scheduler in JUDGES[name].schedulers
    ]


class Bench:
    """Runs one case, and keeps what ended in a file."""

    def __init__(self, case: Case, out: Path, known: set[tuple[Case, str, int]]) -> None:
        self.case, self._out, self._known = case, out, known
        self.judge: Judge = JUDGES[case.judge]
        self.pipe: DiffusionPipeline = self.judge.load(case.scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        self._references: dict[int, Clip] = {}

    def plain(self, prompts: int) -> None:
        """The unaccelerated pipeline, and fewer steps with as many calls as the shares compute."""
        for prompt in range(prompts):
            for share in (1.0, *SHARES):
                self._measure(PLAIN, share, prompt, round(share * self.case.steps))

    def ours(self, candidate: str, prompts: int) -> None:
        """One of `CANDIDATES` at every share."""
        damping, spread = CANDIDATES[candidate]
        for share in SHARES:
            cache = OptimalSchedule(share, spread=spread, predictor=Extrapolate(damping=damping))
            with accelerate(self.pipe, cache=cache, attention=None, guidance=None, sampler=None):
                for prompt in range(prompts):
                    self._measure(candidate, share, prompt, self.case.steps)

    def theirs(self, prompts: int) -> None:
        """Other libraries' caches at all of their settings."""
        for label, attach in rivals(self.pipe):
            undo = attach(self.pipe)
            try:
                for prompt in range(prompts):
                    self._measure(label, 0.0, prompt, self.case.steps)
            finally:
                undo()

    def _measure(self, label: str, share: float, prompt: int, steps: int) -> None:
        setting = f"{label} @ {share:g}" if share else label
        if (self.case, setting, prompt) in self._known:
            return
        reference = self._reference(prompt, label == PLAIN)
        began = time.process_time()
        clip = self._clip(prompt, steps)
        seconds = time.process_time() - began
        run = Run(self.case, setting, prompt, psnr(clip, reference), share, seconds)
        with self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(run)) + "\n")

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
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    found = [json.loads(line) for line in lines]
    return [Run(**{**one, "case": Case(**one["case"])}) for one in found]


class Tables:
    """What the runs say."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs: dict[tuple[Case, str], list[Run]] = {}
        for run in runs:
            self._runs.setdefault((run.case, run.setting), []).append(run)
        self.cases = list(dict.fromkeys(run.case for run in runs))

    def decibels(self, case: Case, setting: str) -> list[float]:
        return [run.psnr for run in self._runs.get((case, setting), [])]

    def gains(self, case: Case, candidate: str, share: float) -> tuple[float, float] | None:
        """Above fewer steps: of the mean, and of the worst clip."""
        ours, fewer = (self.decibels(case, f"{label} @ {share:g}") for label in (candidate, PLAIN))
        if not ours or not fewer:
            return None
        return float(np.mean(ours) - np.mean(fewer)), min(ours) - min(fewer)

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
                gain, fewer = self.gains(case, candidate, share), self.decibels(case, f"{PLAIN} @ {share:g}")
                cells.append(f"{np.mean(fewer):.1f} {gain[0]:+.1f} ({gain[1]:+.1f})" if gain else "")
            yield f"| {case} | {candidate} | {' | '.join(cells)} |"

    def speeds(self, promise: float) -> Iterator[str]:
        """A line for each judge that rivals ran on: the greatest speed that keeps the promise on 95 % of clips."""
        kinds = list(dict.fromkeys(setting.split(":")[0] for _, setting in self._runs if " @ " not in setting))
        yield f"| at {promise:g} dB in 95 % of clips | ours | fewer steps | {' | '.join(kinds)} |"
        yield "| --- " * (3 + len(kinds)) + "|"
        for case in self.cases:
            if any(setting.split(":")[0] in kinds for at, setting in self._runs if at == case):
                labels = [self.chosen_without(case.judge), PLAIN, *kinds]
                cells = [self._fastest(case, label, promise) for label in labels]
                yield f"| {case} | {' | '.join(cells)} |"

    def _fastest(self, case: Case, label: str, promise: float) -> str:
        whole = np.mean([run.seconds for run in self._runs[case, f"{PLAIN} @ 1"]])
        kept = [
            float(whole / np.mean([run.seconds for run in runs]))
            for (at, setting), runs in self._runs.items()
            if at == case and setting.startswith((f"{label} @", f"{label}:"))
            if np.mean([run.psnr >= promise for run in runs]) >= 0.95
        ]
        return f"{max(kept):.2f}x" if kept else "none"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Settings on judges that had no part in choosing them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(JUDGES)}; all by default")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--rivals", action="store_true", help="other libraries too, at 50 steps and high guidance")
    parser.add_argument("--table", action="store_true", help="only print what the runs so far say")
    parser.add_argument("--out", type=Path, default=Path("out/holds"))
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(JUDGES):
        parser.error(f"there is no judge {', '.join(sorted(unknown))}; name some of: {', '.join(JUDGES)}.")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.names or list(JUDGES)
    # A file for each set of judges, so that two commands with different ones may run at once.
    path = options.out / f"{'-'.join(names)}.jsonl"
    known = {(run.case, run.setting, run.prompt) for run in read(options.out)}
    for case in [] if options.table else cases(names):
        bench = Bench(case, path, known)
        bench.plain(options.prompts)
        for candidate in CANDIDATES:
            bench.ours(candidate, options.prompts)
        if options.rivals and case == cases([case.judge])[0]:
            bench.theirs(options.prompts)
        print(f"{case}: done", flush=True)
    tables = Tables(read(options.out))
    print("\n".join(tables.left_out()))
    for promise in (40.0, 30.0) if options.rivals else ():
        print("\n" + "\n".join(tables.speeds(promise)))


if __name__ == "__main__":
    main()
