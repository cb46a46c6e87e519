"""`accel inspect` and `accel presets`."""

from __future__ import annotations

import argparse
from typing import Any

from accel.commands.options import add_machine, add_model, load
from accel.terminal import plain, show


def add_inspect(commands: Any) -> None:
    command = commands.add_parser("inspect", help="show what a pipeline consists of")
    add_model(command)
    add_machine(command)
    command.set_defaults(command=inspect_model)


def add_presets(commands: Any) -> None:
    command = commands.add_parser("presets", help="list the presets and what they promise")
    command.set_defaults(command=list_presets)


def inspect_model(options: argparse.Namespace) -> None:
    """What the pipeline consists of."""
    from accel.anatomy import inspect

    show(inspect(load(options.model, options)))


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
