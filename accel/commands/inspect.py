"""`accel inspect` and `accel presets`."""

from __future__ import annotations

import argparse
from typing import Any

from accel.commands.options import add_call, add_machine, add_model, call_arguments, load
from accel.presets import DEFAULT
from accel.terminal import plain, show, waiting


def add_inspect(commands: Any) -> None:
    command = commands.add_parser("inspect", help="show what a pipeline consists of")
    add_model(command)
    add_machine(command)
    command.add_argument(
        "--check",
        nargs="*",
        metavar="PRESET",
        help="run once without and once with each preset or recipe file (balanced)",
    )
    command.add_argument("--prompt", help="the prompt of the check")
    command.add_argument("--seed", type=int, default=0, help="the seed of the check (0)")
    add_call(command, steps=None)
    command.set_defaults(command=inspect_model)


def add_presets(commands: Any) -> None:
    command = commands.add_parser("presets", help="list the presets and what they promise")
    command.set_defaults(command=list_presets)


def inspect_model(options: argparse.Namespace) -> None:
    """What the pipeline consists of, and what presets give with it where that is asked for."""
    from accel.anatomy import inspect

    prompt = None if options.check is None else _prompt(options)
    pipe = load(options.model, options)
    show(inspect(pipe))
    if options.check is None:
        return
    from accel.self_check import check

    arguments = call_arguments(options)
    if options.steps is not None:
        arguments["num_inference_steps"] = options.steps
    with waiting("checking"):
        found = check(pipe, prompt, list(options.check or [DEFAULT]), seed=options.seed, **arguments)
    for line in found:
        show(line)


def _prompt(options: argparse.Namespace) -> str:
    """The one that was given, or for a pocket model one of its own."""
    if options.prompt is None and options.model.startswith("pocket:"):
        from accel import pocket

        return pocket.prompts(1, options.seed)[0]
    if options.prompt is None:
        raise ValueError('which prompt? For example: --prompt "a corgi surfing".')
    return str(options.prompt)


def list_presets(options: argparse.Namespace) -> None:
    """The presets and what they promise."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from accel.presets import PRESETS

    table = Table("preset", "fidelity to the unaccelerated output", "recipe", box=SIMPLE_HEAD, pad_edge=False)
    for name, preset in PRESETS.items():
        table.add_row(plain(name), plain(preset.promise), plain(preset.recipe.label))
    Console().print(table)
