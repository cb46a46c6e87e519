"""How much the steps matter to each judge: `python -m benchmarks.judges.steps`, or with the names of some.

25 and 12 steps against 50, for each scheduler and guidance scale. At 20 to 35 dB for 25 steps a judge is as hard to
please as large models are; far above that nearly everything looks good on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline

from accel.measure.metrics import psnr
from benchmarks.command import add_judges
from benchmarks.judges import JUDGES, Judge

FULL, FEWER = 50, (25, 12)


@dataclass(frozen=True)
class Line:
    """PSNR against 50 steps of one judge, scheduler and guidance scale: for each of FEWER its mean and its worst."""

    judge: str
    scheduler: str
    guidance: float
    means: tuple[float, ...]
    worst: tuple[float, ...]

    def __str__(self) -> str:
        cells = [f"{mean:.1f}, {worst:.1f}" for mean, worst in zip(self.means, self.worst, strict=True)]
        return f"| {self.judge} | {self.scheduler} | {self.guidance:g} | {' | '.join(cells)} |"


def lines(judge: Judge, prompts: int) -> Iterator[Line]:
    """One for each of its schedulers and guidance scales, over that many prompts, each with a seed of its own."""
    for scheduler in judge.schedulers:
        pipe = judge.load(scheduler)
        for guidance in judge.guidance_scales:
            found = np.asarray([_fidelity(pipe, judge, number, guidance) for number in range(prompts)])
            yield Line(judge.name, scheduler, guidance, tuple(found.mean(0)), tuple(found.min(0)))


def _fidelity(pipe: DiffusionPipeline, judge: Judge, number: int, guidance: float) -> list[float]:
    reference = judge.clip(pipe, number, FULL, guidance)
    return [psnr(judge.clip(pipe, number, steps, guidance), reference) for steps in FEWER]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fewer steps against 50, on every judge.")
    add_judges(parser, JUDGES)
    parser.add_argument("--prompts", type=int, default=8)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"| judge | scheduler | guidance | {' | '.join(f'{steps} steps: mean, worst dB' for steps in FEWER)} |")
    print("| --- " * (3 + len(FEWER)) + "|")
    for name in options.names:
        for line in lines(JUDGES[name], options.prompts):
            print(line, flush=True)


if __name__ == "__main__":
    main()
