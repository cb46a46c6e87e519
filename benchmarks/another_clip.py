"""How fast all levers together are where the clip may be another one, and whether it still shows its prompt.

`python -m benchmarks.another_clip --out out/another` asks the pocket video model at its largest (128x128, 33 frames).
Every row makes the same prompts' clips with the same seeds: processor time beside the unaccelerated pipeline's, how
many show what their prompt says (`accel.pocket.verify`), each with the 95 % interval of chance, and how near they are
to the unaccelerated ones. The recipe was chosen on other prompts (`accel.pocket.prompts(8, seed=7)`).

The command goes on where it was interrupted. `--part 0 2` and `--part 1 2` are its halves, for two processes that share
the folder; the table is of all that is there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import accel
from accel import pocket
from accel.attention import LowPrecision, PooledKeys, WindowResidual
from accel.caching import OptimalSchedule
from accel.cli import run
from accel.journal import Journal, rows_of
from accel.measure.intervals import of_mean, of_ratio
from accel.measure.metrics import Clip, psnr, to_frames
from accel.measure.pipeline_runs import without_progress_bars
from accel.recipe import Recipe
from accel.resolution import CoarseToFine
from accel.samplers import AdaptiveGuidance
from accel.terminal import show
from benchmarks.best_of import share
from benchmarks.coarse import with_maps
from benchmarks.command import command_of

PLAIN, ALL, COARSE = "unaccelerated", "all levers", "`CoarseToFine` alone"
SIZE = {"height": 128, "width": 128, "num_frames": 33}
STEPS = 50


class Row(NamedTuple):
    """The recipe, how many steps are asked for, and of how many of the prompts a clip is made."""

    recipe: Recipe
    steps: int = STEPS
    prompts: int = 1_000_000


ROWS = {
    PLAIN: Row(Recipe()),
    ALL: Row(
        Recipe(
            cache=OptimalSchedule(0.25, guard=0.4, fewest=12, dense=1, careful=0.5),
            attention=PooledKeys(factor=(3, 1, 1)),
            guidance=AdaptiveGuidance(),
            resolution=CoarseToFine(0.5),
        )
    ),
    "3 steps": Row(Recipe(), steps=3),
    "5 steps": Row(Recipe(), steps=5),
    COARSE: Row(Recipe(resolution=CoarseToFine(0.5)), prompts=16),
    "cache + attention + guidance, which keep the clip": Row(
        Recipe(
            cache=OptimalSchedule(0.4),
            attention=LowPrecision(sparse=WindowResidual()),
            guidance=AdaptiveGuidance(),
        ),
        prompts=16,
    ),
}


@dataclass(frozen=True)
class OneClip:
    """What one row made of one prompt. psnr: against the unaccelerated clip, in dB."""

    row: str
    prompt: str
    correct: bool
    cpu_seconds: float
    psnr: float

    @property
    def key(self) -> tuple[str, str]:
        return self.row, self.prompt


def kept(folder: Path, part: tuple[int, int], settings: dict[str, Any]) -> Journal[OneClip]:
    """The clips of one part of the prompts."""
    return Journal(folder / f"part-{part[0]}-of-{part[1]}.jsonl", settings, OneClip)


def compared(folder: Path, row: str, number: int, clip: Clip) -> float:
    """PSNR against the prompt's unaccelerated clip, which is this one or was made before it, perhaps by an earlier
    process: it is kept."""
    path = folder / f"unaccelerated-{number}.npy"
    if row == PLAIN:
        np.save(path, clip.astype(np.float16))
    return psnr(clip, np.load(path).astype(np.float32))


def measure(given: argparse.Namespace) -> None:
    """How fast all levers together are where the clip may be another one, and whether it still shows its prompt."""
    stop, part = time.monotonic() + 60.0 * given.minutes, (given.part[0], given.part[1])
    made = kept(given.out, part, {"prompt_seed": given.prompt_seed})
    torch.set_num_threads(1)
    pipe = pocket.load("video")
    rows = {name: row._replace(recipe=_measured(pipe, row.recipe)) for name, row in ROWS.items() if name in given.rows}
    prompts = pocket.prompts(given.prompts, given.prompt_seed)
    with without_progress_bars(pipe):
        pipe(prompts[0], num_inference_steps=1, **SIZE)  # warm
        for name, number in left(made, prompts, rows, part):
            if time.monotonic() > stop:
                show("The time is over; the same command goes on from here.")
                break
            made.add(_one(given.out, pipe, name, rows[name], prompts[number], number))
    show(table([clip for path in sorted(given.out.glob("part-*.jsonl")) for clip in rows_of(path, OneClip)]))


def left(
    made: Journal[OneClip], prompts: Sequence[str], rows: dict[str, Row], part: tuple[int, int]
) -> Iterator[tuple[str, int]]:
    """The clips of this part that are still to be made, all rows of a prompt together, so that a machine that slows
    down slows all of them."""
    for number in range(part[0], len(prompts), part[1]):
        for name, row in rows.items():
            if number < row.prompts and (name, prompts[number]) not in made:
                yield name, number


def _measured(pipe: Any, recipe: Recipe) -> Recipe:
    """With the maps of the pipeline's autoencoder, where the size changes."""
    return recipe if recipe.resolution is None else with_maps(pipe, recipe, SIZE["height"])


def _one(folder: Path, pipe: Any, name: str, row: Row, prompt: str, number: int) -> OneClip:
    with accel.accelerate(pipe, row.recipe):
        generator, start = torch.Generator("cpu").manual_seed(number), time.process_time()
        clip = to_frames(pipe(prompt, generator=generator, num_inference_steps=row.steps, output_type="np", **SIZE))
        seconds = time.process_time() - start
    return OneClip(name, prompt, pocket.verify(clip, prompt).correct, seconds, compared(folder, name, number, clip))


def table(entries: Sequence[OneClip]) -> str:
    """A line for each row, over the prompts that it and the unaccelerated pipeline have; 95 % intervals in brackets."""
    by: dict[str, dict[str, OneClip]] = {}
    for entry in entries:
        by.setdefault(entry.row, {})[entry.prompt] = entry
    lines = [
        "| | times as fast | show their prompt | unaccelerated, same prompts | difference in points | PSNR |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in sorted(by, key=list(ROWS).index):
        prompts = [prompt for prompt in by[name] if prompt in by.get(PLAIN, {})]
        if prompts:
            own, base = ([by[which][prompt] for prompt in prompts] for which in (name, PLAIN))
            lines.append(f"| {name} | {_line(own, base)} |" if name != PLAIN else _of_plain(own))
    return "\n".join(lines)


def _of_plain(own: Sequence[OneClip]) -> str:
    seconds = np.mean([one.cpu_seconds for one in own])
    return f"| {PLAIN} | 1 ({seconds:.1f} s) | {share([one.correct for one in own])} | | | |"


def _line(own: Sequence[OneClip], base: Sequence[OneClip]) -> str:
    ours, theirs = ([one.cpu_seconds for one in found] for found in (own, base))
    fast = of_ratio(theirs, ours)
    gains = [100.0 * (one.correct - other.correct) for one, other in zip(own, base, strict=True)]
    points = of_mean(gains)
    return " | ".join(
        [
            f"{np.mean(theirs) / np.mean(ours):.2f} [{fast.low:.2f}, {fast.high:.2f}]",
            *(share([one.correct for one in found]) for found in (own, base)),
            f"{np.mean(gains):+.0f} [{points.low:+.0f}, {points.high:+.0f}]",
            f"{np.mean([one.psnr for one in own]):.1f} dB",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_of("benchmarks.another_clip", measure)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--prompt-seed", type=int, default=11)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("PART", "PARTS"))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many and go on another time")
    parser.add_argument("--out", type=Path, default=Path("out/another"))
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
