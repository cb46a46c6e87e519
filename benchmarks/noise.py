"""What refined noise is worth on trained video models: `python -m benchmarks.noise`.

FreeInit and its fast form beside one plain run of the same recipe, prompts and seeds: how steady the clips are, how
much they change from frame to frame, and on the pocket model how many show what their prompt says.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from accel import pocket
from accel.cli import run
from accel.drafting.fast_init import fast_init
from accel.drafting.free_init import free_init
from accel.measure.intervals import of_mean
from accel.measure.metrics import Clip, flicker, to_frames
from accel.measure.pipeline_runs import without_progress_bars
from accel.measure.steadiness import warping_error
from accel.terminal import show
from benchmarks.best_of import share
from benchmarks.command import add_judges, command_of
from benchmarks.judges import JUDGES

POCKET = "pocket"
VIDEO = (POCKET, *(name for name, judge in JUDGES.items() if judge.video))

# Of a pipeline, a prompt, a seed and the other arguments of a call.
Way = Callable[..., Any]


@dataclass(frozen=True)
class Measured:
    """One clip. correct: whether it shows its prompt, None where nothing can tell."""

    steadiness: float
    change: float
    correct: bool | None


def ways(rounds: int) -> dict[str, Way]:
    """By what they are called, the first without refined noise."""
    return {
        "one run": partial(free_init, rounds=1),
        "`fast_init`": fast_init,
        f"`free_init`, {rounds} runs": partial(free_init, rounds=rounds),
    }


def measured(clip: Clip, prompt: str, judged: bool) -> Measured:
    return Measured(warping_error(clip), flicker(clip), pocket.verify(clip, prompt).correct if judged else None)


def table(model: str, found: dict[str, list[Measured]]) -> list[str]:
    """A line for each way: its mean, and how much it differs from one run, clip by clip."""
    base, *_ = found.values()
    lines = []
    for way, clips in found.items():
        cells = [
            beside([getattr(one, name) for one in clips], [getattr(one, name) for one in base])
            for name in ("steadiness", "change")
        ]
        hits = [one.correct for one in clips if one.correct is not None]
        lines.append(f"| {model}, {way} | {' | '.join(cells)} | {share(hits) if hits else ''} |")
    return lines


def beside(values: Sequence[float], others: Sequence[float]) -> str:
    """For example "0.021 (-0.003 [-0.004, -0.002])"."""
    mean = f"{np.mean(values):.4f}"
    if values == others:
        return mean
    low, high = of_mean([one - other for one, other in zip(values, others, strict=True)])
    return f"{mean} ({np.mean(values) - np.mean(others):+.4f} [{low:+.4f}, {high:+.4f}])"


def measure(given: argparse.Namespace) -> None:
    """Clips from plain noise beside clips from noise that a run before has refined."""
    show("| model | warping error | change from frame to frame | correct |\n| --- | --- | --- | --- |")
    for name in given.names:
        pipe: Any = pocket.load("video") if name == POCKET else JUDGES[name].load()
        prompts = pocket.prompts(given.prompts, given.prompt_seed) if name == POCKET else JUDGES[name].prompts
        found: dict[str, list[Measured]] = {}
        with without_progress_bars(pipe):
            for way, make in ways(given.rounds).items():
                found[way] = [
                    measured(to_frames(make(pipe, prompt, seed=seed, recipe=given.recipe)), prompt, name == POCKET)
                    for seed, prompt in enumerate(prompts[: given.prompts])
                ]
        show("\n".join(table(name, found)))


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_of("benchmarks.noise", measure)
    add_judges(parser, VIDEO)
    parser.add_argument("--prompts", type=int, default=32, help="of each model")
    parser.add_argument("--prompt-seed", type=int, default=61, help="of the pocket model")
    parser.add_argument("--rounds", type=int, default=3, help="of `free_init`")
    parser.add_argument("--recipe", default="fast", help="of every run")
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
