"""What a contact sheet of drafts costs on the pocket video model, and whether finishing one is exact; and what a fast
recipe saves and spoils in the first quarter of a run, where steps matter most.

`python -m benchmarks.drafts --sheets 3`
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch

import accel
from accel import pocket
from accel.cli import run
from accel.drafting.call_memory import CallMemory
from accel.drafting.early_end import EarlyEnd
from accel.drafting.seeded_runs import SeededRuns
from accel.measure.intervals import of_mean
from accel.measure.metrics import Clip, psnr, to_frames
from accel.measure.pipeline_runs import without_progress_bars
from accel.recipe import Recipe
from accel.terminal import show
from benchmarks.best_of import DRAFT, share
from benchmarks.command import command_of


def plain(pipe: Any, prompt: str, seed: int, recipe: Any) -> tuple[Clip, float]:
    """A run, and its processor time."""
    with accel.accelerate(pipe, recipe):
        start = time.process_time()
        output = pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed))
        return to_frames(output), time.process_time() - start


def sheet(pipe: Any, prompt: str, seeds: Sequence[int], part: float) -> tuple[float, float, list[bool]]:
    """Processor time and evaluations of the drafts of all seeds, in unaccelerated runs, and whether finishing the last
    one gives the bits of a plain run: by this recipe, by "lossless", and unaccelerated.
    """
    _, whole = plain(pipe, prompt, seeds[0], Recipe())
    start = time.process_time()
    drafts = accel.draft(pipe, prompt, seed=seeds, recipe=DRAFT, share=part)
    seconds = time.process_time() - start
    exact = []
    for recipe in (DRAFT, "lossless", Recipe()):
        with accel.accelerate(pipe, recipe):
            output = pipe(prompt, generator=torch.Generator("cpu").manual_seed(seeds[-1]))
        exact.append(np.array_equal(to_frames(drafts[-1].finish(recipe)), to_frames(output)))
    return seconds / whole, sum(one.cost for one in drafts), exact


def early(pipe: Any, prompt: str, seed: int, part: float) -> dict[str, float]:
    """How many evaluations the recipe makes up to there for one of an unaccelerated run, and how near the clean
    estimates are, in dB; both also of the whole run.
    """
    runs, found, clips = SeededRuns(pipe, prompt, {}), dict[str, float](), dict[tuple[str, float], Clip]()
    spent: dict[tuple[str, float], int] = {}
    for name, recipe in (("fast", DRAFT), ("plain", Recipe())):
        with runs.accelerated(recipe) as made:
            memory = CallMemory()
            for at in (part, 1.0):
                run_to = made(seed, memory, EarlyEnd(at))
                clips[name, at], spent[name, at] = to_frames(run_to.output), memory.rows
    for label, at in (("early", part), ("whole", 1.0)):
        found[f"{label} saved"] = spent["plain", at] / spent["fast", at]
        found[f"{label} dB"] = psnr(clips["fast", at], clips["plain", at])
    found |= {name: float(pocket.verify(clips[name, 1.0], prompt).correct) for name in ("fast", "plain")}
    return found


def measure(given: argparse.Namespace) -> None:
    """The cost of contact sheets, whether finishing is exact, and the first quarter of a run."""
    pipe, prompts = pocket.load("video"), pocket.prompts(given.sheets + given.clips, given.prompt_seed)
    with without_progress_bars(pipe):
        plain(pipe, prompts[0], 0, Recipe())  # warm
        sheets = [sheet(pipe, prompt, range(given.seeds), given.share) for prompt in prompts[: given.sheets]]
        if sheets:
            show(
                f"{given.seeds} drafts: {fmean(one[0] for one in sheets):.2f} unaccelerated runs of processor time "
                f"(at most {max(one[0] for one in sheets):.2f}), {fmean(one[1] for one in sheets):.2f} of evaluations; "
                f"finished bit for bit: {share([same for one in sheets for same in one[2]])}"
            )
        found = [early(pipe, prompt, 0, given.share) for prompt in prompts[given.sheets :]]
    if found:
        show(quarter(found, given.share))


def quarter(found: Sequence[dict[str, float]], part: float) -> str:
    """A line each for the first part of the runs and for the whole of them."""
    lines = [f"| {len(found)} clips | evaluations saved | clean estimates agree | correct, fast and unaccelerated |"]
    lines.append("| --- | --- | --- | --- |")
    for label, name in (("early", f"the first {part:.0%}"), ("whole", "the whole run")):
        near = [one[f"{label} dB"] for one in found]
        low, high = of_mean(near)
        judged = " and ".join(share([bool(one[kind]) for one in found]) for kind in ("fast", "plain"))
        saved = fmean(one[f"{label} saved"] for one in found)
        lines.append(f"| {name} | {saved:.1f}x | {fmean(near):.1f} dB [{low:.1f}, {high:.1f}] | "
                     f"{judged if label == 'whole' else ''} |")  # fmt: skip
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_of("benchmarks.drafts", measure)
    parser.add_argument("--sheets", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--clips", type=int, default=24, help="for what a recipe does in the first part of a run")
    parser.add_argument("--prompt-seed", type=int, default=7)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
