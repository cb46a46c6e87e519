"""What one measured call is worth: `python -m benchmarks.calibrated` asks every judge.

Each row is one judge, scheduler, length and setting, at the higher guidance scale: mean and worst PSNR against the
unaccelerated clips of `OptimalSchedule` (by its share of the steps) or a preset alone, with a calibration from one
other prompt under the very same call, and with one from 50 steps under the judge's first scheduler. But for what a
preset's guard adds, all three compute the same steps.
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
from accel.presets import PRESETS
from accel.terminal import show
from benchmarks.command import command_of, judge_among
from benchmarks.judged_runs import STEPS, named
from benchmarks.judges import JUDGES
from benchmarks.judges.home import HOME

SETTINGS = {"0.34": OptimalSchedule(0.34), "0.22": OptimalSchedule(0.22)} | {
    name: PRESETS[name].recipe.cache for name in ("balanced", "fast")
}
MEASURED = 9  # the number of the prompt that is measured; those that are judged come first


def measured(judge: Any, pipe: Any, steps: int) -> Calibration:
    """From one call."""
    with accel.calibrating(pipe) as calibration:
        judge.clip(pipe, MEASURED, steps, judge.guidance_scales[1])
    return calibration


def decibels(
    judge: Any, pipe: Any, steps: int, setting: str, references: Sequence[Clip], calibration: Any
) -> list[float]:
    """Of each clip against its reference, with or without a calibration."""
    recipe = Recipe(cache=SETTINGS[setting])
    with accel.accelerate(pipe, recipe, calibration=calibration):
        clips = [judge.clip(pipe, number, steps, judge.guidance_scales[1]) for number in range(len(references))]
    return [psnr(clip, reference) for clip, reference in zip(clips, references, strict=True)]


def rows(name: str, prompts: int, settings: Sequence[str]) -> Iterator[tuple[str, list[list[float]]]]:
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
            for setting in settings:
                found = [decibels(judge, pipe, steps, setting, references, one) for one in (None, near, far)]
                yield f"{name}, {scheduler}, {steps} steps, {setting}", found


def measure(options: argparse.Namespace) -> None:
    """Prints the table, row by row, and the means at the end."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    show("| judge, scheduler, steps, setting | alone | measured in this call | at 50 steps, first scheduler |")
    show("| --- | --- | --- | --- |")
    gains: list[list[float]] = []
    for name in options.judges:
        for case, found in rows(name, options.prompts, options.settings):
            show(f"| {case} | {' | '.join(f'{np.mean(each):.1f}, {min(each):.1f}' for each in found)} |")
            gains.append([float(np.mean(each) - np.mean(found[0])) for each in found[1:]])
    means = ", ".join(f"{gain:+.1f}" for gain in np.mean(gains, axis=0))
    show(f"\nMean gain, in dB: {means}. Rows that gain: {sum(near > 0 for near, _ in gains)} of {len(gains)}.")


def main(arguments: list[str] | None = None) -> int:
    parser = command_of("benchmarks.calibrated", measure)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="NAME")
    parser.add_argument("--judges", nargs="+", type=judge_among((*JUDGES, *HOME)), default=list(JUDGES), metavar="NAME")
    parser.add_argument("--prompts", type=int, default=2)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
