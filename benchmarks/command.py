"""What the commands of this folder share with `accel`: one sentence for bad input, and an answer to Ctrl-C."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence

from accel.plain_data import quote


def command_of(module: str, measure: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """A parser for `accel.cli.run`, described by the function's docstring and still without options of its own."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=measure.__doc__)
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.set_defaults(command=measure)
    return parser


def add_judges(parser: argparse.ArgumentParser, known: Iterable[str], default: Sequence[str] | None = None) -> None:
    """Gives a parser `names`: which of these judges it is about, by default all."""
    choice = tuple(known)
    told = f"of {', '.join(choice)}{'; all by default' * (default is None)}"
    names = list(choice if default is None else default)
    parser.add_argument("names", nargs="*", metavar="NAME", type=judge_among(choice), default=names, help=told)


def judge_among(known: Iterable[str]) -> Callable[[str], str]:
    """The `type` of an argument that names one of these judges."""
    choice = tuple(known)

    def judge(name: str) -> str:
        if name not in choice:
            raise argparse.ArgumentTypeError(f"there is no judge {quote(name)}; name some of: {', '.join(choice)}.")
        return name

    return judge
