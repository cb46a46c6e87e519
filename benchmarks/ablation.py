"""Every lever on and off, alone and together, on one pipeline: whether their gains multiply.

`python -m benchmarks.ablation` (`make levers`) measures it on the pocket model at its largest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from accel import pocket
from accel.attention import LowPrecision, WindowResidual
from accel.caching import OptimalSchedule
from accel.cli import run
from accel.commands.options import add_call, add_machine, call_arguments, load
from accel.files import write_whole
from accel.measure.comparison import compare
from accel.measure.measurements import Verifier
from accel.measure.results import Comparison
from accel.method import Method
from accel.precision import BFloat16
from accel.recipe import Recipe
from accel.resolution import CoarseToFine
from accel.samplers import AdaptiveGuidance
from accel.terminal import show
from benchmarks.command import command_of

# One method for each lever that leaves the number of steps alone, so that fidelity to the same run can be measured.
CHOSEN: dict[str, Method] = {
    "cache": OptimalSchedule(0.4),
    "attention": LowPrecision(sparse=WindowResidual()),
    "guidance": AdaptiveGuidance(),
    "precision": BFloat16(),
}


# This one makes another clip, of which PSNR says nothing and the column "prompt" all: alone, and beside all others.
RESIZED: Mapping[str, Method] = {"resolution": CoarseToFine(0.5)}


def rows() -> list[tuple[str, Recipe]]:
    """All that is measured, by label."""
    return [*combinations(), *(found[-1] for found in (combinations(RESIZED), combinations({**CHOSEN, **RESIZED})))]


def combinations(chosen: Mapping[str, Method] = CHOSEN) -> list[tuple[str, Recipe]]:
    """Every choice of levers but none at all, the one of all of them last; labels are "cache + guidance"."""
    found = []
    for switches in product((True, False), repeat=len(chosen)):
        methods: dict[str, Any] = {
            name: method for on, (name, method) in zip(switches, chosen.items(), strict=True) if on
        }
        if methods:
            found.append((" + ".join(methods), Recipe(**methods)))
    return sorted(found, key=lambda entry: len(entry[1].methods()))


def measure(
    pipe: Any,
    prompts: Sequence[str],
    *,
    steps: int = 50,
    call_arguments: Mapping[str, Any] | None = None,
    verify: Verifier | None = None,
) -> Comparison:
    """Compares all combinations with the pipeline unaccelerated, with fewer steps, and each lever with its absence."""
    fewer = [round(steps / speed) for speed in (1.5, 2.5, 4)]
    return compare(
        pipe,
        rows(),
        prompts,
        steps=steps,
        call_arguments=dict(call_arguments or {}),
        verify=verify,
        fewer_steps=fewer,
        by_lever=True,  # all that it takes are combinations themselves
    )


def ablation(options: argparse.Namespace) -> None:
    """Measure every lever on and off, on the pocket model at its largest."""
    result = measure(
        load("pocket:video", options),
        pocket.prompts(options.clips, seed=13),
        steps=options.steps,
        call_arguments=call_arguments(options),
        verify=pocket.verify,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "levers.txt", f"{result}\n")
    write_whole(options.out / "levers.json", json.dumps(result.to_dict(), indent=1))
    show(result, f"\nTable and data: {options.out}")


def main(argv: Sequence[str] | None = None) -> int:
    command = command_of("benchmarks.ablation", ablation)
    command.add_argument("--clips", type=int, default=2, help="how many prompts (2)")
    command.add_argument("--out", type=Path, default=Path("out/levers"), help="folder for the results")
    add_call(command, steps=50)
    add_machine(command)
    command.set_defaults(size=(128, 128), frames=33)
    return run(command.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
