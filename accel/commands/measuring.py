"""`accel bench`, `frontier`, `trajectory` and `levers`: the measurements that the README quotes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from accel.commands.options import (
    add_call,
    add_machine,
    add_measurement,
    add_model,
    call_arguments,
    load,
    recorded_prompts,
    verifier,
)
from accel.terminal import show, waiting


def add_bench(commands: Any) -> None:
    command = commands.add_parser(
        "bench", help="tune, and measure what was found against presets, single levers, fewer steps and other libraries"
    )
    add_model(command, default="pocket:video")
    command.add_argument(
        "--prompts", default="38", help="a file with one prompt per line, or how many of the pocket model's own (38)"
    )
    command.add_argument("--clips", type=int, default=8, help="how many of them to judge on; the others tune (8)")
    command.add_argument(
        "--qualities", type=float, nargs="*", default=[24, 30, 40], help="PSNRs to tune for (24 30 40)"
    )
    command.add_argument("--speeds", type=float, nargs="*", default=[2, 3], help="speed-ups to tune for (2 3)")
    command.add_argument("--minutes", type=float, default=6.0, help="for each tuning (6)")
    command.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for the results (out/bench)")
    add_call(command, steps=50)
    add_machine(command)
    command.set_defaults(command=measure_bench)


def add_frontier(commands: Any) -> None:
    command = commands.add_parser(
        "frontier", help="measure every method, fewer steps and other libraries on the pocket model"
    )
    command.add_argument("--clips", type=int, default=4, help="how many prompts (4)")
    add_measurement(command, out="out/frontier", steps=50)
    command.set_defaults(command=measure_frontier)


def add_trajectory(commands: Any) -> None:
    command = commands.add_parser(
        "trajectory", help="measure guidance methods, samplers and compositions of levers on the pocket model"
    )
    command.add_argument("--clips", type=int, default=48, help="prompts that the compositions are judged on (48)")
    command.add_argument("--out", type=Path, default=Path("out/trajectory"), help="folder for the results")
    add_call(command, steps=50)
    add_machine(command)
    command.set_defaults(command=measure_trajectory)


def add_levers(commands: Any) -> None:
    command = commands.add_parser("levers", help="measure every lever on and off, on the pocket model at its largest")
    command.add_argument("--clips", type=int, default=2, help="how many prompts (2)")
    command.add_argument("--out", type=Path, default=Path("out/levers"), help="folder for the results")
    add_call(command, steps=50)
    add_machine(command)
    command.set_defaults(command=measure_levers, size=(128, 128), frames=33)


def measure_bench(options: argparse.Namespace) -> None:
    """Tuned recipes, presets, single levers, fewer steps and other libraries."""
    from accel.bench import measure, save

    prompts = recorded_prompts(options.prompts, options.model)
    if len(prompts) < options.clips + 6:
        raise ValueError(
            f"{options.clips} prompts to judge on and at least 6 to tune on are needed, not {len(prompts)}."
        )
    with waiting("tuning") as status:
        bench = measure(
            load(options.model, options), prompts[: options.clips], prompts[options.clips :], options.out,
            qualities=options.qualities, speeds=options.speeds, minutes=options.minutes, steps=options.steps,
            call_arguments=call_arguments(options), verify=verifier(options.model), tell=status.update,
        )  # fmt: skip
    with waiting(f"writing {options.out}"):
        lines = save(bench, options.out, options.qualities)
    show(bench.table(), "", *lines, "")
    show(f"Picture: {options.out / 'bench.svg'}\nPage:    {options.out / 'page.html'}")


def measure_frontier(options: argparse.Namespace) -> None:
    """Every method and predictor, fewer steps and the rivals on the pocket model."""
    from accel import pocket
    from accel.frontier import measure, save

    prompts = pocket.prompts(options.clips + 6, seed=11)
    result = measure(
        load("pocket:video", options),
        prompts[6:],
        prompts[:6],
        steps=options.steps,
        repeats=options.repeats,
        call_arguments=call_arguments(options),
        verify=pocket.verify,
    )
    with waiting(f"writing {options.out}"):
        lines = save(result, options.out)
    show(result, *lines, f"\nTable, data and picture: {options.out}")


def measure_trajectory(options: argparse.Namespace) -> None:
    """Guidance methods, samplers and compositions of levers on the pocket model."""
    from accel import pocket
    from accel.trajectory import measure, text_of

    prompts = pocket.prompts(options.clips + 6, seed=12)
    results = measure(
        load("pocket:video", options),
        prompts[6:],
        prompts[:6],
        options.out,
        steps=options.steps,
        call_arguments=call_arguments(options),
        verify=pocket.verify,
    )
    show(text_of(results), f"\nTable and data: {options.out}")


def measure_levers(options: argparse.Namespace) -> None:
    """Cache, attention and guidance, alone and together, on the pocket model."""
    from accel import pocket
    from accel.files import write_whole
    from accel.levers import measure

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
