"""Choosing among the pocket models: the distilled one beside the base on the prompts of `benchmarks.best_of`, a route
between them with and without a signal, and how different their seeds' clips are.

`python -m benchmarks.models --base out/best-of/best_of.jsonl --out out/models`. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import accel
from accel import pocket
from accel.cli import run
from accel.journal import Journal, rows_of
from accel.measure.intervals import of_mean, of_ratio
from accel.measure.metrics import Clip, to_frames
from accel.measure.pipeline_runs import without_progress_bars
from accel.measure.steadiness import diversity, thumbnail
from accel.recipe import Recipe
from accel.samplers import ModelSwitch, SigmaTable
from accel.samplers.guidance.interval import GuidanceInterval
from accel.terminal import show
from accel.tuning.models import ChoiceResult, ModelChoice, ModelFront
from accel.tuning.route import EarlyErrors, Route
from benchmarks.best_of import DRAFT, PLAIN, ROWS, Outcome, share
from benchmarks.command import command_of

RUNS = "models.jsonl"
BASE, FEW, FEWER = ModelChoice("video", 0), ModelChoice("few", 1), ModelChoice("few, 2 steps", 1, 2)
RISK = 0.15


@dataclass(frozen=True)
class Measured:
    """What was measured, and what came of it."""

    key: str
    value: Any


def once(kept: Journal[Measured], key: str, measure: Callable[..., Any], *given: Any) -> Any:
    """measure(*given), made once for all runs of the command."""
    return kept.once(key, lambda: Measured(key, measure(*given))).value


def made(pipe: Any, prompt: str, seed: int, recipe: Any = None, steps: int | None = None) -> tuple[Clip, float]:
    """A clip, and its processor time."""
    call = {} if steps is None else {"num_inference_steps": steps}
    with accel.accelerate(pipe, recipe or Recipe()):
        start = time.process_time()
        output = pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed), **call)
        return to_frames(output), time.process_time() - start


def front_of(base: Sequence[Outcome], pipes: Sequence[Any], kept: Journal[Measured]) -> ModelFront:
    """The base's runs are those of `benchmarks.best_of`; the others are made with the same seeds."""

    def judged(choice: ModelChoice, row: Outcome) -> tuple[bool, float]:
        clip, seconds = made(pipes[choice.model], row.prompt, row.seed, choice.recipe, choice.steps)
        return pocket.verify(clip, row.prompt).correct, seconds

    results = [ChoiceResult(BASE, tuple(float(r.correct) for r in base), tuple(r.cpu_seconds for r in base))]
    for choice in (FEW, FEWER):
        rows = [once(kept, f"{choice.label}/{row.prompt}/{row.seed}", judged, choice, row) for row in base]
        results.append(ChoiceResult(choice, tuple(float(r[0]) for r in rows), tuple(r[1] for r in rows)))
    return ModelFront(tuple(pipes), tuple(row.prompt for row in base), 0, tuple(results))


def routed(front: ModelFront, early: Callable[[ModelChoice, str, int], float], shuffled: int | None) -> ChoiceResult:
    """Each half of the prompts by a route that was learnt on the other; without the time of the early look."""
    count = len(front.prompts)
    scores, seconds = np.zeros(count), np.zeros(count)
    for half in (0, 1):
        learnt_on, judged_on = range(half, count, 2), range(1 - half, count, 2)
        results = [
            ChoiceResult(one.choice, _at(one.scores, learnt_on), _at(one.seconds, learnt_on)) for one in front.results
        ]
        part = ModelFront(front.pipes, _at(front.prompts, learnt_on), 0, tuple(results))
        route = Route.learnt(part, RISK, early=early, shuffled=shuffled)
        by = {one.choice.label: one for one in front.results}
        for number in judged_on:
            where = by[route.choose(front.prompts[number], 0).label]
            scores[number], seconds[number] = where.scores[number], where.seconds[number]
    label = "route" if shuffled is None else "route, labels shuffled"
    return ChoiceResult(ModelChoice(label, 0), tuple(scores), tuple(seconds))


def _at(values: Sequence[Any], places: Sequence[int]) -> tuple[Any, ...]:
    return tuple(values[place] for place in places)


def models_table(results: Sequence[ChoiceResult]) -> str:
    lines = ["| | correct | speed |", "| --- | --- | --- |"]
    base = results[0]
    for one in results:
        low, high = of_ratio(base.seconds, one.seconds)
        speed = sum(base.seconds) / sum(one.seconds)
        correct = share([score > 0.0 for score in one.scores])
        lines.append(f"| {one.choice.label} | {correct} | {speed:.1f}x [{low:.1f}, {high:.1f}] |")
    return "\n".join(lines)


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
        clips, correct, seconds = [], [], 0.0
        for seed in range(seeds):
            clip, spent = made(pipe, prompt, seed, recipe)
            clips.append(thumbnail(clip))
            correct.append(pocket.verify(clip, prompt).correct)
            seconds += spent
        return [diversity(clips), sum(correct), seconds / seeds]

    lines = ["| | correct | diversity over seeds | seconds |", "| --- | --- | --- | --- |"]
    for name, (pipe, recipe) in ways.items():
        rows = [once(kept, f"{name}/{prompt}/{seeds}", measured, pipe, recipe, prompt) for prompt in prompts]
        spread = [row[0] for row in rows]
        low, high = of_mean(spread)
        hits = [True] * sum(row[1] for row in rows)
        correct = share(hits + [False] * (seeds * len(rows) - len(hits)))
        lines.append(
            f"| {name} | {correct} | {np.mean(spread):.4f} [{low:.4f}, {high:.4f}] | "
            f"{np.mean([row[2] for row in rows]):.2f} |"
        )
    return "\n".join(lines)


def measure(given: argparse.Namespace) -> None:
    """The distilled pocket model beside the base, a route between them, and the diversity of both."""
    base = [row for row in rows_of(given.base, Outcome) if row.way == PLAIN]
    if not base:
        raise ValueError(f"{given.base} holds no runs: `python -m benchmarks.best_of` makes them (--base).")
    kept = Journal(given.out / RUNS, {}, Measured)  # a key says all that was set
    pipes = [pocket.load("video"), pocket.load("few")]
    with without_progress_bars(pipes[0]), without_progress_bars(pipes[1]):
        made(pipes[1], base[0].prompt, 0)  # warm
        front = front_of(base, pipes, kept)
        errors = EarlyErrors(front)

        def early(choice: ModelChoice, prompt: str, seed: int) -> float:
            found: float = once(kept, f"early/{choice.label}/{prompt}", errors, choice, prompt, seed)
            return found

        show(models_table([*front.results, routed(front, early, None), routed(front, early, 0)]))
        show(diversity_table(pipes, pocket.prompts(given.prompts, given.prompt_seed), given.seeds, kept))


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_of("benchmarks.models", measure)
    base = Path("out/best-of") / ROWS
    parser.add_argument("--base", type=Path, default=base, help="the runs of benchmarks.best_of")
    parser.add_argument("--prompts", type=int, default=16, help="for the diversity over seeds")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--prompt-seed", type=int, default=77)
    parser.add_argument("--out", type=Path, default=Path("out/models"))
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
