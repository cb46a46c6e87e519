"""Trains a refiner for a flow model: `python -m benchmarks.refiner MODEL --out FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from accel.cli import run
from accel.commands.options import add_call, add_machine, add_model, call_arguments, load, recorded_prompts
from accel.measure.pipeline_runs import without_progress_bars
from accel.terminal import show, waiting
from benchmarks.command import command_of
from benchmarks.refiner.training import train_refiner


def train(options: argparse.Namespace) -> None:
    """Train a small refiner for a flow model, for the sampler FlowTurbo."""
    prompts = recorded_prompts(options.prompts, options.model)
    pipe, arguments = load(options.model, options), call_arguments(options)
    if options.steps is not None:
        arguments["step_counts"] = (options.steps,)
    with without_progress_bars(pipe), waiting("training") as status:
        refiner = train_refiner(pipe, prompts, minutes=options.minutes, progress=status.update, **arguments)
    refiner.save(options.out)
    facts = refiner.facts
    told = f"{facts.updates} updates; of the change between two answers it misses {facts.error:.2f}"
    show(f"{told} (the last answer 1.00, a straight line through two {facts.extrapolated:.2f})\nRefiner: {options.out}")


def main(argv: Sequence[str] | None = None) -> int:
    command = command_of("benchmarks.refiner", train)
    add_model(command)
    command.add_argument(
        "--prompts", default="96", help="a file with one prompt per line, or how many of the pocket model's own (96)"
    )
    command.add_argument("--out", type=Path, required=True, help="folder for the refiner")
    command.add_argument("--minutes", type=float, default=10.0, help="of training, besides the recording (10)")
    add_call(command, steps=None)
    add_machine(command)
    return run(command.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
