"""`accel inspect`, `accel presets` and `accel env`: what there is, and what will engage."""

from __future__ import annotations

import argparse
from typing import Any

from accel.api import recipe_of
from accel.commands.options import (
    INPUTS,
    add_call,
    add_command,
    add_inputs,
    add_machine,
    add_model,
    call_arguments,
    load,
    with_lora,
)
from accel.presets import DEFAULT
from accel.terminal import plain, show, waiting


def add_inspect(commands: Any) -> None:
    command = add_command(
        commands,
        "inspect",
        "show what a pipeline consists of, and what will engage on it here and what will not",
        "inspect ./wan",
        'inspect ./wan --check balanced fast --prompt "a corgi surfing"',
        aliases=["doctor"],
    )
    add_model(command)
    add_machine(command)
    command.add_argument(
        "--check",
        nargs="*",
        metavar="PRESET",
        help="run once without and once with each preset or recipe file (balanced)",
    )
    command.add_argument("--prompt", help="the prompt of the check")
    command.add_argument("--seed", type=int, help="the seed of the check (0)")
    add_call(command, steps=None)
    add_inputs(command)
    command.set_defaults(command=inspect_model)


def add_presets(commands: Any) -> None:
    command = add_command(commands, "presets", "list the presets and what they promise", "presets")
    command.set_defaults(command=list_presets)


def add_env(commands: Any) -> None:
    command = add_command(commands, "env", "show the machine and the versions, for a report of a problem", "env")
    command.set_defaults(command=show_environment)


def inspect_model(options: argparse.Namespace) -> None:
    """What the pipeline consists of, what will engage, and what presets give with it where that is asked for."""
    from accel.anatomy import inspect
    from accel.measure.environment import environment
    from accel.outlook import outlook
    from accel.precision import automatic

    if options.check is None:
        _refuse_options_of_a_check(options)
        pipe = load(options.model, options)
        anatomy, here = inspect(pipe), environment(pipe)
        machine = f"machine: {here['device']} ({here['device_name']}), {here['dtype']}"
        pays = f'what pays of precision here (precision="auto"): {automatic(pipe) or "nothing"}'
        show(anatomy, machine, outlook(anatomy), pays, "--check measures what a preset gives.")
        return
    prompt, recipes = _prompt(options), options.check or [DEFAULT]
    for name in recipes:
        recipe_of(name)
    pipe = load(options.model, options)
    show(inspect(pipe))
    from accel.self_check import check

    arguments = call_arguments(options, pipe)
    if options.steps is not None:
        arguments["num_inference_steps"] = options.steps
    with with_lora(pipe, options), waiting("checking"):
        found = check(pipe, prompt, list(recipes), seed=options.seed or 0, **arguments)
    for line in found:
        show(line)
    for change in dict.fromkeys(change for line in found for change in line.changes):
        show(change)


def _refuse_options_of_a_check(options: argparse.Namespace) -> None:
    """Raises ValueError for options that would do nothing."""
    names = ("prompt", "seed", "steps", "guidance", "size", "frames", *INPUTS)
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, [])]
    if given:
        raise ValueError(f"{', '.join(given)} belong{'' if len(given) > 1 else 's'} to a check: add --check.")


def _prompt(options: argparse.Namespace) -> str:
    """The one that was given, or for a pocket model one of its own."""
    if options.prompt is None and options.model.startswith("pocket:"):
        from accel import pocket

        return pocket.prompts(1, options.seed)[0]
    if options.prompt is None:
        raise ValueError('which prompt? For example: --prompt "a corgi surfing".')
    return str(options.prompt)


def show_environment(options: argparse.Namespace) -> None:
    """The machine, the versions, and which of the packages are there that some methods and commands need."""
    from types import SimpleNamespace

    from accel.loading import best_device
    from accel.measure.environment import OPTIONAL, environment, package_version

    found = environment(SimpleNamespace(device=best_device()))
    packages = ("transformers", "numpy", *OPTIONAL)
    lines = {**found, **{name: package_version(name) or "not installed" for name in packages}}
    show(*(f"{name:<14} {value}" for name, value in lines.items() if value != ""))


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
