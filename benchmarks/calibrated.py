"""What one measured call is worth: `python -m benchmarks.calibrated` asks every judge.

Each row is one judge, scheduler, length and share of the steps, at the higher guidance scale: mean and worst PSNR
against the unaccelerated clips of `OptimalSchedule` alone, with a calibration from one other prompt under the very same
call, and with one from 50 steps under the judge's first scheduler. All three compute the same steps.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

import accel
from accel import Calibration, OptimalSchedule, Recipe
from accel.cli import run
from accel.measure.metrics import Clip, psnr
from accel.terminal import show
from benchmarks.command import command_of
from benchmarks.holds import STEPS, named
from benchmarks.judges import JUDGES

SHARES = (0.34, 0.22)
MEASURED = 9  # the number of the prompt that is measured; those that are judged come first


def measured(judge: Any, pipe: Any, steps: int) -> Calibration:
    """From one call."""
    with accel.calibrating(pipe) as calibration:
        judge.clip(pipe, MEASURED, steps, judge.guidance_scales[1])
    return calibration


def decibels(
    judge: Any, pipe: Any, steps: int, share: float, references: Sequence[Clip], calibration: Any
) -> list[float]:
    """Of each clip against its reference, with or without a calibration."""
    cache = Recipe(cache=OptimalSchedule(share))
    with accel.accelerate(pipe, cache, calibration=calibration):
        clips = [judge.clip(pipe, number, steps, judge.guidance_scales[1]) for number in range(len(references))]
    return [psnr(clip, reference) for clip, reference in zip(clips, references, strict=True)]


def rows(name: str, prompts: int) -> Iterator[tuple[str, list[list[float]]]]:
    """The case, and the decibels alone, with the near calibration and with the far one."""
    judge = named(name)
    first, *_ = judge.schedulers
    far = measured(judge, judge.load(first), max(STEPS))
    for scheduler in judge.schedulers:
        pipe = judge.load(scheduler)
        pipe.set_progress_bar_config(disable=True)
        for steps in STEPS:
            near = measured(judge, pipe, steps)
            references = [judge.clip(pipe, number, steps, judge.guidance_scales[1]) for number in range(prompts)]
            for share in SHARES:
                found = [decibels(judge, pipe, steps, share, references, one) for one in (None, near, far)]
                yield f"{name}, {scheduler}, {steps} steps, {share:g}", found


def measure(options: argparse.Namespace) -> None:
    """Prints the table, row by row, and the means at the end."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    show("| judge, scheduler, steps, share | alone | measured in this call | at 50 steps, first scheduler |")
    show("| --- | --- | --- | --- |")
    gains: list[list[float]] = []
    for name in options.judges:
        for case, found in rows(name, options.prompts):
            show(f"| {case} | {' | '.join(f'{np.mean(each):.1f}, {min(each):.1f}' for each in found)} |")
            gains.append([float(np.mean(each) - np.mean(found[0])) for each in found[1:]])
    means = ", ".join(f"{gain:+.1f}" for gain in np.mean(gains, axis=0))
    show(f"\nMean gain, in dB: {means}. Rows that gain: {sum(near > 0 for near, _ in gains)} of {len(gains)}.")


def main(arguments: list[str] | None = None) -> int:
    parser = command_of("benchmarks.calibrated", measure)
    parser.add_argument("--judges", nargs="+", default=list(JUDGES), metavar="NAME")
    parser.add_argument("--prompts", type=int, default=2)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
