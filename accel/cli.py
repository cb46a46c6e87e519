"""The command `accel`."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from accel.commands import app, compare, fit, inspect, render, tune
from accel.commands.options import check_given
from accel.terminal import show
from accel.version import __version__

if TYPE_CHECKING:
    from accel.measure.results import Comparison

BAD_INPUT = 2
INTERRUPTED = 130

# Commands that were part of `accel` and have moved to the repository, where what proves the library is.
MOVED = {
    "bench": "benchmarks.tuning",
    "frontier": "benchmarks.frontier",
    "levers": "benchmarks.ablation",
    "refine": "benchmarks.refiner",
    "trajectory": "benchmarks.guidance_samplers",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, 1 where `render` could not render everything, 2 for bad input (one sentence on
    stderr), or 130 after Ctrl-C.
    """
    given = sys.argv[1:] if argv is None else argv
    name = next((word for word in given if not word.startswith("-")), "")
    if name in MOVED:
        show(
            f"accel: accel {name} is now python -m {MOVED[name]}, in a checkout of accel's repository.", file=sys.stderr
        )
        return BAD_INPUT
    return run(parser().parse_args(given))


def run(options: argparse.Namespace) -> int:
    """Runs `options.command`, and returns as `main` does."""
    for library in ("DIFFUSERS", "TRANSFORMERS"):  # their advice at import time is not about anything we do
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        check_given(options)
        code = command(options)
    except KeyboardInterrupt as interrupt:
        show(f"\naccel: {_what_was_saved(interrupt, options)}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError) as error:
        if options.traceback:
            traceback.print_exc()
        show(f"accel: {str(error) or type(error).__name__}", file=sys.stderr)
        return BAD_INPUT
    return code or 0


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    found = argparse.ArgumentParser(
        prog="accel",
        description="Makes diffusers pipelines faster without retraining, and proves it.",
        epilog="accel COMMAND --help says what a command is for and shows an example.",
    )
    found.add_argument("--version", action="version", version=f"accel {__version__}")
    found.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = found.add_subparsers(required=True, metavar="COMMAND")
    compare.add_demo(commands)
    app.add_app(commands)
    inspect.add_inspect(commands)
    compare.add_compare(commands)
    tune.add_tune(commands)
    render.add_render(commands)
    tune.add_calibrate(commands)
    fit.add_fit(commands)
    inspect.add_presets(commands)
    inspect.add_env(commands)
    return found


def _what_was_saved(interrupt: KeyboardInterrupt, options: argparse.Namespace) -> str:
    if hasattr(interrupt, "summary") or hasattr(interrupt, "folder"):
        return str(interrupt)  # renders and tunings say themselves what is done and how to go on
    partial: Comparison | None = getattr(interrupt, "partial", None)
    if partial is None:
        return "interrupted; nothing was saved."
    page = partial.save(options.out)
    runs = sum(row.runs for row in partial.rows)
    return f"interrupted; the {runs} runs that were complete are in {page}."
