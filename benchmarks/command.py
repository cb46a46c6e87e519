"""What the commands of this folder share with `accel`: one sentence for bad input, and an answer to Ctrl-C."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def command_of(description: str, measure: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """A parser for `accel.cli.run`, still without options of its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.set_defaults(command=measure)
    return parser
