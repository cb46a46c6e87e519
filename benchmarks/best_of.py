"""What looking at many seeds gains on the pocket video model, by who ranks them, and what it costs.

`python -m benchmarks.best_of --out out/best-of` runs every prompt once unaccelerated with its first seed, and once as
the best of several by each way of ranking. The judge of the table is always `accel.pocket.verify`. The command goes on
where it was interrupted, or where `--minutes` were over.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import accel
from accel import pocket
from accel.caching import OptimalSchedule
from accel.cli import run
from accel.journal import Journal
from accel.measure.intervals import Interval, of_ratio, of_share
from accel.measure.metrics import Clip, to_frames
from accel.measure.pipeline_runs import without_progress_bars
from accel.recipe import Recipe
from accel.terminal import show
from benchmarks.command import command_of
from benchmarks.rankers import RANKERS, Ranker, ranker, verdict
from benchmarks.second_verifier import SecondVerifier, trained

PLAIN = "one seed"
ROWS = "best_of.jsonl"
DRAFT = Recipe(cache=OptimalSchedule(0.2, fewest=10, guard=0.8))


@dataclass(frozen=True)
class Outcome:
    """One prompt in one way: whether the clip is correct, what it cost, and, of an unaccelerated clip, which rankers
    say the same of it as the judge. `exact`: whether a winner that was run again is its plain run, bit for bit.
    """

    way: str
    prompt: str
    seed: int
    correct: bool
    cost: float
    cpu_seconds: float
    tried: int = 1
    agrees: dict[str, bool] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.way, self.prompt


def kept(folder: Path, settings: dict[str, Any]) -> Journal[Outcome]:
    """The runs of one setting."""
    return Journal(folder / ROWS, settings, Outcome)


@dataclass(frozen=True)
class Bench:
    """The pipeline, the rankers, and how the search is made."""

    pipe: Any
    rankers: dict[str, Ranker]
    second: SecondVerifier | None
    search: dict[str, Any]

    def row(self, way: str, prompt: str, seeds: Sequence[int]) -> Outcome:
        return self.plain(prompt, seeds[0]) if way == PLAIN else self.best(way, prompt, seeds)

    def plain(self, prompt: str, seed: int) -> Outcome:
        """One unaccelerated run."""
        start = time.process_time()
        clip = to_frames(self.pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed)))
        seconds = time.process_time() - start
        correct = pocket.verify(clip, prompt).correct
        agrees = {name: self._says(name, clip, prompt) == correct for name in self.rankers}
        return Outcome(PLAIN, prompt, seed, correct, 1.0, seconds, agrees=agrees)

    def best(self, way: str, prompt: str, seeds: Sequence[int]) -> Outcome:
        """The best of the seeds; its time includes decoding and scoring."""
        start = time.process_time()
        found = accel.best_of(self.pipe, prompt, seeds, verifier=self.rankers[way], **self.search)
        seconds = time.process_time() - start
        correct = pocket.verify(found.frames, prompt).correct
        return Outcome(way, prompt, found.seed, correct, found.cost, seconds, found.tried)

    def _says(self, name: str, clip: Clip, prompt: str) -> bool:
        return verdict(name, self.rankers[name], self.second, clip, prompt)


def measure(given: argparse.Namespace) -> None:
    """How often the best of many seeds is what the caption says, beside one unaccelerated run."""
    out, stop = given.out, time.monotonic() + 60.0 * given.minutes
    settings = {name: getattr(given, name) for name in ("budget", "draft", "looks", "seeds", "prompt_seed")}
    experiment = kept(out, settings)
    pipe = pocket.load("video")
    second = trained(out, pipe.vae) if "second" in given.rank else None
    draft: Any = DRAFT if given.draft is None else given.draft
    search = {"budget": given.budget, "draft": draft, "looks": tuple(given.looks)}
    rankers = {name: ranker(name, second, given.parts, given.error) for name in given.rank}
    bench = Bench(pipe, rankers, second, search)
    prompts = pocket.prompts(given.prompts, given.prompt_seed)
    with without_progress_bars(pipe):
        bench.plain(prompts[0], 0)  # warm
        for way, prompt, seeds in _left(experiment, prompts, given.seeds, list(rankers)):
            if time.monotonic() > stop:
                show("The time is over; the same command goes on from here.")
                break
            experiment.add(bench.row(way, prompt, seeds))
    show(table(list(experiment.values())))


def _left(
    experiment: Journal[Outcome], prompts: Sequence[str], count: int, rankers: Sequence[str]
) -> Iterator[tuple[str, str, range]]:
    """What is still to be run, all ways of a prompt together. Each prompt has seeds of its own."""
    for index, prompt in enumerate(prompts):
        for way in (PLAIN, *rankers):
            if (way, prompt) not in experiment:
                yield way, prompt, range(count * index, count * (index + 1))


def table(rows: Sequence[Outcome]) -> str:
    """A line for each way, over the prompts that it and the unaccelerated run have; 95 % intervals in brackets."""
    ways = list(dict.fromkeys(row.way for row in rows))
    by = {way: {row.prompt: row for row in rows if row.way == way} for way in ways}
    lines = [
        "| ranked by | correct | one seed, same prompts | seeds tried | evaluations | processor time | agrees |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way in ways:
        prompts = [prompt for prompt in by[PLAIN] if prompt in by[way]]
        own, base = ([by[name][prompt] for prompt in prompts] for name in (way, PLAIN))
        tried, cost = np.mean([one.tried for one in own]), np.mean([one.cost for one in own])
        correct, before = (share([one.correct for one in found]) for found in (own, base))
        lines.append(f"| {way} | {correct} | {before} | {tried:.1f} | {cost:.2f}x | "
                     f"{_times(own, base)} | {_agreement(way, base)} |")  # fmt: skip
    return "\n".join(lines)


def share(hits: Sequence[bool]) -> str:
    """For example "75% [66, 82] of 110"."""
    low, high = of_share(sum(hits), len(hits))
    return f"{np.mean(hits):.0%} [{100 * low:.0f}, {100 * high:.0f}] of {len(hits)}"


def _times(own: Sequence[Outcome], base: Sequence[Outcome]) -> str:
    ours, theirs = ([one.cpu_seconds for one in found] for found in (own, base))
    interval: Interval = of_ratio(ours, theirs)
    return f"{np.mean(ours) / np.mean(theirs):.2f}x [{interval.low:.2f}, {interval.high:.2f}]"


def _agreement(way: str, base: Sequence[Outcome]) -> str:
    known = [one.agrees[way] for one in base if one.agrees and way in one.agrees]
    return share(known) if known else ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_of("benchmarks.best_of", measure)
    parser.add_argument("--prompts", type=int, default=110)
    parser.add_argument("--prompt-seed", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--budget", type=float, default=0.78)
    parser.add_argument("--draft", help="a preset, or a recipe's file; left out, a planned schedule of 5x")
    parser.add_argument("--looks", type=float, nargs="+", default=[0.2])
    parser.add_argument("--rank", nargs="+", choices=RANKERS, default=["second", "random", "judge"])
    parser.add_argument("--parts", nargs="+", default=["shape", "motion"])
    parser.add_argument("--error", type=float, default=0.1)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many and go on another time")
    parser.add_argument("--out", type=Path, default=Path("out/best-of"))
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
