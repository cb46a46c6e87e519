"""What the commands of this folder share with `accel`: one sentence for bad input, and an answer to Ctrl-C."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def command_of(module: str, measure: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """A parser for `accel.cli.run`, described by the function's docstring and still without options of its own."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=measure.__doc__)
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.set_defaults(command=measure)
    return parser
