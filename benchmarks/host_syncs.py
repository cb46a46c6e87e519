"""How often each technique makes the host wait for a device: python -m benchmarks.host_syncs [--pipelines wan flux].

Counted on the device of `tests/devices/hosted.py`, on tiny pipelines, in a run of eight steps. To set up: all that
happens once in a run (attaching, the timetable, testing a kernel, packing a plan). In a step: the most of what happens
again and again. The pipeline's own are not counted.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch

import accel
from accel import cli
from accel.terminal import show
from benchmarks.command import command_of

STEPS = 8


def counted(pipe: Any, name: str, recipe: Any) -> tuple[int, int]:
    """Stalls of accel's own lines in a run: to set it up, and the most in one step."""
    from tests.devices.hosted import again_and_again, most_in_a_step, watched
    from tests.tiny import TINY, run

    with watched() as seen, torch.no_grad(), accel.accelerate(pipe, recipe):
        run(pipe, TINY[name], steps=STEPS)
    repeated = again_and_again(seen.ours)
    return len(seen.ours) - len(repeated), most_in_a_step(repeated)


def table(options: argparse.Namespace) -> None:
    """One row for each technique."""
    from tests.devices.cases import ADAPTIVE, ONLINE, STATIC
    from tests.devices.hosted import to_hosted
    from tests.tiny import TINY

    warnings.simplefilter("ignore")
    pipes = {name: to_hosted(TINY[name].build()) for name in options.pipelines}
    show("| technique | " + " | ".join(f"{name}: set-up, a step" for name in pipes) + " |")
    show("| --- |" + " --- |" * len(pipes))
    for label, recipe in (STATIC | ADAPTIVE | ONLINE).items():
        if options.only in label:
            cells = ["{}, {}".format(*counted(pipe, name, recipe)) for name, pipe in pipes.items()]
            show(f"| {label} | {' | '.join(cells)} |")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = command_of("benchmarks.host_syncs", table)
    parser.add_argument("--pipelines", nargs="+", default=["wan", "flux", "sd"], help="of tests/tiny")
    parser.add_argument("--only", default="", help="only techniques whose name contains this")
    return cli.run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
