"""Choosing among the pocket models: caches and few steps of the base, the distilled model and switches between both by
`accel.tune`, a route between them with and without a signal, and how different their seeds' clips are.

`python -m benchmarks.models --out out/models`. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import accel
from accel import pocket
from accel.caching import OptimalSchedule
from accel.cli import run
from accel.journal import Journal
from accel.measure.intervals import of_mean, of_ratio
from accel.measure.metrics import Clip, to_frames
from accel.measure.pipeline_runs import without_progress_bars
from accel.measure.steadiness import diversity, thumbnail
from accel.recipe import Recipe
from accel.samplers import ModelSwitch, SigmaTable
from accel.samplers.guidance.interval import GuidanceInterval
from accel.terminal import show
from accel.tuning.models import ChoiceResult, ModelChoice, ModelFront
from accel.tuning.route import EarlyError, EarlyErrors, Route
from benchmarks.best_of import DRAFT, share
from benchmarks.command import command_of

MEASURED = "measured.jsonl"
EIGHT_CALLS = Recipe(cache=OptimalSchedule(0.16, fewest=8, guard=0.8))


@dataclass(frozen=True)
class Measured:
    """What was measured, and what came of it."""

    key: str
    value: Any


def once(kept: Journal[Measured], key: str, measure: Callable[..., Any], *given: Any) -> Any:
    """measure(*given), made once for all runs of the command."""
    return kept.once(key, lambda: Measured(key, measure(*given))).value


def choices() -> list[ModelChoice]:
    """The base first."""
    return [
        ModelChoice("video", 0),
        ModelChoice("video, 5x cache", 0, None, DRAFT),
        ModelChoice("video, 8 of 50 computed", 0, None, EIGHT_CALLS),
        ModelChoice("video, 10 steps", 0, 10),
        ModelChoice("video to 0.9, then few", 0, None, base_then_few()),
        ModelChoice("few", 1),
    ]


def correct(clip: Clip, prompt: str) -> float:
    """The score of the front: whether the clip is what the prompt says."""
    return float(pocket.verify(clip, prompt).correct)


def halves(front: ModelFront) -> list[tuple[ModelFront, range]]:
    """A front of every other prompt, and the numbers of those that it has not seen; twice."""
    count = len(front.prompts)
    return [(_part(front, range(half, count, 2)), range(1 - half, count, 2)) for half in (0, 1)]


def _part(front: ModelFront, places: range) -> ModelFront:
    results = [ChoiceResult(one.choice, _at(one.scores, places), _at(one.seconds, places)) for one in front.results]
    prompts, seeds = _at(front.prompts, places), _at(front.seeds, places)
    return replace(front, prompts=prompts, seeds=seeds, results=tuple(results))


def _at(values: Sequence[Any], places: Sequence[int]) -> tuple[Any, ...]:
    return tuple(values[place] for place in places)


def chosen(front: ModelFront, below: float) -> ChoiceResult:
    """Each half of the prompts by the fastest choice that the other half shows to be at most `below` worse."""
    return _each_half(front, "chosen on the other half", lambda part: lambda number: part.fastest(below).choice)


def routed(front: ModelFront, risk: float, early: EarlyError, shuffled: int | None) -> ChoiceResult:
    """Each half of the prompts by a route that was learnt on the other; without the time of the early look."""

    def learnt(part: ModelFront) -> Callable[[int], ModelChoice]:
        route = Route.learnt(part, risk, early=early, shuffled=shuffled)
        return lambda number: route.choose(*front.shots[number])

    return _each_half(front, "route" if shuffled is None else "route, labels shuffled", learnt)


def _each_half(
    front: ModelFront, label: str, learnt: Callable[[ModelFront], Callable[[int], ModelChoice]]
) -> ChoiceResult:
    by = {one.choice.label: one for one in front.results}
    scores, seconds = np.zeros(len(front.prompts)), np.zeros(len(front.prompts))
    for part, unseen in halves(front):
        choose = learnt(part)
        for number in unseen:
            where = by[choose(number).label]
            scores[number], seconds[number] = where.scores[number], where.seconds[number]
    return ChoiceResult(ModelChoice(label, 0), tuple(scores), tuple(seconds))


def models_table(results: Sequence[ChoiceResult]) -> str:
    """A line for each choice; the differences to the first, the base, are paired by prompts."""
    lines = ["| | correct | more than the base, points | speed |", "| --- | --- | --- | --- |"]
    base = results[0]
    for one in results:
        low, high = of_ratio(base.seconds, one.seconds)
        speed = sum(base.seconds) / sum(one.seconds)
        hits = share([score > 0.0 for score in one.scores])
        gains = [100.0 * (own - other) for own, other in zip(one.scores, base.scores, strict=True)]
        least, most = of_mean(gains)
        more = f"{np.mean(gains):+.0f} [{least:+.0f}, {most:+.0f}]"
        lines.append(f"| {one.choice.label} | {hits} | {more} | {speed:.1f}x [{low:.1f}, {high:.1f}] |")
    return "\n".join(lines)


def made(pipe: Any, prompt: str, seed: int, recipe: Any = None) -> tuple[Clip, float]:
    """A clip, and its processor time."""
    with accel.accelerate(pipe, recipe or Recipe()):
        start = time.process_time()
        output = pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed))
        return to_frames(output), time.process_time() - start


def base_then_few() -> Recipe:
    """Five guided steps of the base to where the distilled model's second phase begins, and its own from there."""
    levels = SigmaTable((1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.75, 0.5))
    after = ModelSwitch("pocket:few", 0.9, steps=8 / 50, sigmas=levels)
    return Recipe(sampler=after, guidance=GuidanceInterval(0.9, unit="sigma"))


def diversity_table(pipes: Sequence[Any], prompts: Sequence[str], seeds: int, kept: Journal[Measured]) -> str:
    """Adherence and diversity of each way over the seeds of each prompt."""
    ways: dict[str, tuple[Any, Any]] = {
        "video, 5x": (pipes[0], DRAFT),
        "few": (pipes[1], None),
        "video, then few": (pipes[0], base_then_few()),
    }

    def measured(pipe: Any, recipe: Any, prompt: str) -> list[Any]:
        clips, right, seconds = [], [], 0.0
        for seed in range(seeds):
            clip, spent = made(pipe, prompt, seed, recipe)
            clips.append(thumbnail(clip))
            right.append(pocket.verify(clip, prompt).correct)
            seconds += spent
        return [diversity(clips), sum(right), seconds / seeds]

    lines = ["| | correct | diversity over seeds | seconds |", "| --- | --- | --- | --- |"]
    for name, (pipe, recipe) in ways.items():
        rows = [once(kept, f"{name}/{prompt}/{seeds}", measured, pipe, recipe, prompt) for prompt in prompts]
        spread = [row[0] for row in rows]
        low, high = of_mean(spread)
        hits = [True] * sum(row[1] for row in rows)
        shown = share(hits + [False] * (seeds * len(rows) - len(hits)))
        lines.append(
            f"| {name} | {shown} | {np.mean(spread):.4f} [{low:.4f}, {high:.4f}] | "
            f"{np.mean([row[2] for row in rows]):.2f} |"
        )
    return "\n".join(lines)


def measure(given: argparse.Namespace) -> None:
    """The distilled pocket model beside the base, a route between them, and the diversity of both."""
    kept = Journal(given.out / MEASURED, {}, Measured)  # a key says all that was set
    pipes = [pocket.load("video"), pocket.load("few")]
    prompts = pocket.prompts(given.prompts, given.prompt_seed)
    with without_progress_bars(pipes[0]), without_progress_bars(pipes[1]):
        made(pipes[1], prompts[0], 0)  # warm
        front = accel.tune(pipes, prompts, verify=correct, choices=choices(), seed=given.first_seed, out=given.out)
        errors = EarlyErrors(front)

        def early(choice: ModelChoice, prompt: str, seed: int) -> float:
            found: float = once(kept, f"early/{choice.label}/{prompt}/{seed}", errors, choice, prompt, seed)
            return found

        routes = [routed(front, given.risk, early, shuffled) for shuffled in (None, 0)]
        show(models_table([*front.results, chosen(front, given.below), *routes]))
        other = pocket.prompts(given.diverse, given.prompt_seed + 1)
        show(diversity_table(pipes, other, given.seeds, kept))


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_of("benchmarks.models", measure)
    parser.add_argument("--prompts", type=int, default=200, help="that every choice is run on")
    parser.add_argument("--prompt-seed", type=int, default=77)
    parser.add_argument("--first-seed", type=int, default=0, help="of the first prompt's noise")
    parser.add_argument("--below", type=float, default=0.0, help="share of correct clips that a choice may lose")
    parser.add_argument("--risk", type=float, default=0.05, help="share of clips that a route may make worse")
    parser.add_argument("--diverse", type=int, default=16, help="prompts for the diversity over seeds")
    parser.add_argument("--seeds", type=int, default=6, help="of each of these")
    parser.add_argument("--out", type=Path, default=Path("out/models"))
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
