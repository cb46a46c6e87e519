"""What looking at many seeds gains on the pocket video model, by who ranks them, and what it costs.

`python -m benchmarks.best_of --out out/best-of` runs every prompt once unaccelerated with the first seed, and once as
the best of several by each way of ranking. The judge of the table is always the whole pocket verifier.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import accel
from accel import pocket
from accel.cli import run
from accel.files import write_whole
from accel.measure.metrics import Clip, to_frames
from accel.measure.runner import without_progress_bars
from accel.recipe import Recipe
from accel.terminal import show
from benchmarks.command import command_of

Ranker = Callable[[Clip, str], float]
RANKERS = ("judge", "noisy", "parts", "random")


@dataclass(frozen=True)
class Outcome:
    """One prompt: whether the clip is correct, what it cost, and whether ranker and judge say the same of the
    unaccelerated clip.
    """

    prompt: str
    correct: bool
    cost: float
    cpu_seconds: float
    tried: int = 1
    agrees: bool | None = None


def ranker(name: str, parts: Sequence[str], error: float) -> Ranker:
    """Scores a clip in [0, 1]. "judge": as it is judged. "noisy": each of the judge's four verdicts is wrong with
    probability `error`. "parts": the judge's verdicts on these attributes alone. "random": a score of its own.
    """
    random = np.random.default_rng(0)

    def score(frames: Clip, prompt: str) -> float:
        if name == "random":
            return float(random.random())
        matches = pocket.verify(frames, prompt).matches
        chosen = [matches[part] for part in parts] if name == "parts" else list(matches.values())
        if name == "noisy":
            chosen = [match ^ bool(random.random() < error) for match in chosen]
        return sum(chosen) / len(chosen)

    return score


def plain(pipe: Any, prompt: str, seed: int) -> tuple[Outcome, Clip]:
    """One unaccelerated run."""
    start = time.process_time()
    clip = to_frames(pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed)))
    seconds = time.process_time() - start
    return Outcome(prompt, pocket.verify(clip, prompt).correct, 1.0, seconds), clip


def best(
    pipe: Any, prompt: str, score: Ranker, seeds: Sequence[int], unaccelerated: tuple[Outcome, Clip], **search: Any
) -> Outcome:
    """The best of the seeds; its time includes the scoring."""
    start = time.process_time()
    found = accel.best_of(pipe, prompt, seeds, verifier=score, **search)
    seconds = time.process_time() - start
    one, clip = unaccelerated
    agrees = (score(clip, prompt) == 1.0) == one.correct
    return Outcome(prompt, pocket.verify(found.frames, prompt).correct, found.cost, seconds, found.tried, agrees)


def measure(given: argparse.Namespace) -> None:
    """How often the best of many seeds is what the caption says, beside one unaccelerated run."""
    pipe, prompts = pocket.load("video"), pocket.prompts(given.prompts, given.prompt_seed)
    draft: Any = Recipe.load(given.draft) if given.draft.endswith(".json") else given.draft
    search = {"budget": given.budget, "draft": draft, "looks": tuple(given.looks)}
    rankers = {name: ranker(name, given.parts, given.error) for name in given.rank}
    found: dict[str, list[Outcome]] = {"one seed": [], **{name: [] for name in rankers}}
    with without_progress_bars(pipe):
        plain(pipe, prompts[0], 0)  # warm
        for index, prompt in enumerate(prompts):
            seeds = range(given.seeds * index, given.seeds * (index + 1))
            unaccelerated = plain(pipe, prompt, seeds[0])
            found["one seed"].append(unaccelerated[0])
            for name, score in rankers.items():
                found[name].append(best(pipe, prompt, score, seeds, unaccelerated, **search))
            show(table(found))
            Path(given.out).mkdir(parents=True, exist_ok=True)
            rows = {name: [asdict(one) for one in outcomes] for name, outcomes in found.items()}
            write_whole(Path(given.out) / "best_of.json", json.dumps({"settings": str(search), "rows": rows}, indent=2))


def table(found: dict[str, list[Outcome]]) -> str:
    """A line for each way: prompts, correct ones with the standard error, cost and processor time as runs."""
    base = float(np.mean([one.cpu_seconds for one in found["one seed"]]))
    lines = ["ranked by | correct | seeds tried | evaluations | processor time | agrees with the judge"]
    for name, outcomes in found.items():
        agrees = [bool(one.agrees) for one in outcomes]
        share = sum(one.correct for one in outcomes) / len(outcomes)
        error = math.sqrt(share * (1.0 - share) / len(outcomes))
        tried, cost = np.mean([one.tried for one in outcomes]), np.mean([one.cost for one in outcomes])
        seconds = np.mean([one.cpu_seconds for one in outcomes])
        lines.append(
            f"{name} | {share:.0%} ± {error:.0%} of {len(outcomes)} | {tried:.1f} | {cost:.2f}x | "
            f"{seconds / base:.2f}x | " + ("" if name == "one seed" else f"{np.mean(agrees):.0%}")
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_of("benchmarks.best_of", measure)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--prompt-seed", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--budget", type=float, default=1.0)
    parser.add_argument("--draft", default="fast", help="a preset, or a recipe's file")
    parser.add_argument("--looks", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--rank", nargs="+", choices=RANKERS, default=["parts", "noisy", "random"])
    parser.add_argument("--parts", nargs="+", default=["shape", "motion"])
    parser.add_argument("--error", type=float, default=0.1)
    parser.add_argument("--out", default="out/best-of")
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
