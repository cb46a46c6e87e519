"""What can be saved of a distilled model's 4 or 8 steps: `python -m benchmarks.few_steps`.

Caches that keep whole steps want more steps than these models take. So each way to save a part of one is tried on
`pocket:few`: other formats, leaving a computed step early (its first blocks computed, the rest as in the step before),
reusing kinds of modules, and forecasting whole steps in spite of all; beside fewer steps. Processor time, on prompts
that nothing was fitted to.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch

import accel
from accel import FORA, PAB, BFloat16, FixedInterval, LowPrecision, Recipe, pocket
from accel.measure.rows import ResultRow

PROMPTS = ("a red circle moves left on a dark background", "a blue square moves up on a light background")
SHORT: dict[str, Any] = {"warmup": 1, "final": 1, "min_steps": 1}
HEAD = "| | times as fast | PSNR dB: mean, worst | denoiser calls |"


class LeftEarly:
    """Every other step ends after some blocks: what the others added in the step before is added again."""

    def __init__(self, pipe: Any, first: int) -> None:
        self.pipe, self.first, self.step, self.since = pipe, first, 0, 0.0
        self.entered = self.added = torch.empty(0)
        blocks = pipe.transformer.blocks
        self._undo = [pipe.transformer.register_forward_pre_hook(self._begin, with_kwargs=True).remove]
        for index in range(first, len(blocks)):
            blocks[index].forward = functools.partial(self._block, blocks[index].forward, index, len(blocks) - 1)
            self._undo.append(functools.partial(delattr, blocks[index], "forward"))

    def restore(self) -> None:
        for undo in self._undo:
            undo()

    def _begin(self, module: Any, args: Any, kwargs: Any) -> None:
        level = float(kwargs["timestep"].max())
        self.step = self.step + 1 if level < self.since else 0
        self.since = level

    def _block(self, forward: Any, index: int, last: int, hidden: torch.Tensor, *more: Any) -> torch.Tensor:
        if self.step % 2 and self.step < len(self.pipe.scheduler.timesteps) - 1:
            return hidden + self.added if index == last else hidden
        if index == self.first:
            self.entered = hidden
        found: torch.Tensor = forward(hidden, *more)
        if index == last:
            self.added = found - self.entered
        return found


def contestants(blocks: int) -> list[tuple[str, Any]]:
    """By what they leave out; the denoiser has so many blocks."""
    early = [max(1, blocks // 4), blocks // 2, 3 * blocks // 4]
    return [
        ("attention in 8 bits", Recipe(attention=LowPrecision())),
        ("products in bfloat16", Recipe(precision=BFloat16())),
        ("both", Recipe(attention=LowPrecision(), precision=BFloat16())),
        *(
            (
                f"every other step left after {first} of {blocks} blocks",
                lambda pipe, first=first: LeftEarly(pipe, first).restore,
            )
            for first in early
        ),
        ("all modules reused in every other step", Recipe(cache=FORA(2, **SHORT))),
        ("attention reused in every other step", Recipe(cache=PAB(2, 2, 2, (-1.0, 1001.0), **SHORT))),
        ("every other step forecast", Recipe(cache=FixedInterval(2, **SHORT))),
    ]


def line(row: ResultRow) -> str:
    """Of the table."""
    worst = "-" if row.psnr is None else f"{row.psnr:.1f}, {row.psnr_worst:.1f}"
    return f"| {row.label} | {row.cpu_speedup or row.speedup:.2f} | {worst} | {row.computed:.1f} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What can be saved of 4 to 8 steps.")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--size", type=int, default=64, help="pixels along a side (64)")
    parser.add_argument("--frames", type=int, default=17)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pipe = pocket.load("few")
    call = {"height": options.size, "width": options.size, "num_frames": options.frames}
    for steps in options.steps:
        found = accel.compare(
            pipe, contestants(len(pipe.transformer.blocks)), PROMPTS, range(2), steps=steps, call_arguments=call,
            fewer_steps=[steps // 2, 3 * steps // 4], progress=False,
        )  # fmt: skip
        print(f"\n{steps} steps\n\n{HEAD}\n{'| --- ' * 4}|")
        for row in found.rows:
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
