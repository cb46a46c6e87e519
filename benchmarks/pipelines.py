"""What each lever does on every denoising pipeline class of the installed diffusers, as the page docs/pipelines.md.

    python -m benchmarks.pipelines                     every class, a few seconds each
    python -m benchmarks.pipelines --only WanPipeline  these alone; the other lines of the page stay

The pipelines are those of `tests.tiny.zoo`: real classes with two layers of random weights. They say whether a lever
acts, and nothing about quality or speed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch

import accel
from accel import AdaptiveGuidance, FixedInterval, LowPrecision, Recipe, UniPC
from accel.cli import run as run_command
from accel.method import Method
from accel.terminal import one_line
from benchmarks.command import command_of

PAGE = Path(__file__).parent.parent / "docs" / "pipelines.md"
README = PAGE.parents[1] / "README.md"
_IN_README = re.compile(r"(?<=<!-- written by python -m benchmarks.pipelines -->\n).*(?=\n<!-- end -->)")

NEVER = FixedInterval(1, warmup=1, final=0, min_steps=1)
LEVERS: dict[str, Method] = {
    "cache": FixedInterval(3, warmup=2, final=1, min_steps=1),
    "guidance": AdaptiveGuidance(-1.0, start=0.25, rest="conditional"),  # the passes agree as soon as they may
    "sampler": UniPC(),
    "attention": LowPrecision(min_tokens=1),
}
YES, NO, RAISES = "yes", "no", "raises"
COLUMNS = ("pipeline", *LEVERS, "restored", "why not")

HEAD = """# Every denoising pipeline of diffusers {version}

Written by `python -m benchmarks.pipelines`, which runs a tiny pipeline of each class (`tests/tiny/zoo`: the real class,
two layers, random weights, 8 steps) once for each lever. "yes": the lever acted. "no": it did not, and the last column
says why, in the words of the report, on a processor with instructions for bfloat16. "restored": with a cache that never
skips the output was the same bit for bit, and so it was after `restore()`.

{summary}

"""


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    pipeline: str
    cells: tuple[str, ...]  # of each lever, and whether the pipeline was restored
    why: str = ""

    def __str__(self) -> str:
        return f"| {' | '.join((self.pipeline, *self.cells, one_line(self.why).replace('|', '/')))} |"


def tried(name: str) -> Row:
    """The row of one class: each lever alone on a pipeline of its own zoo case."""
    from tests.tiny.zoo import NOT_BUILT, ZOO

    if name in NOT_BUILT:
        return Row(name, ("not tried",) * (len(LEVERS) + 1), NOT_BUILT[name])
    tiny = ZOO[name]
    pipe = tiny.build()
    found = {lever: _acts(pipe, tiny, lever, method) for lever, method in LEVERS.items()}
    whys = [f"{lever}: {why}" for lever, (_, why) in found.items() if why]
    return Row(name, (*(cell for cell, _ in found.values()), _restored(pipe, tiny)), "; ".join(whys))


def _acts(pipe: Any, tiny: Any, lever: str, method: Method) -> tuple[str, str]:
    from tests.tiny import run

    levers: dict[str, Any] = {lever: method}
    try:
        # So that the page is the same whichever processor writes it.
        with (
            patch("accel.attention.methods.bfloat16.has_instructions", return_value=True),
            accel.accelerate(pipe, Recipe(**levers)) as session,
        ):
            run(pipe, tiny)
    except Exception as error:  # whatever it raises: the page says so
        return RAISES, f"{type(error).__name__}: {error}"
    report = session.report()
    state = report.levers[0] if report.levers else None
    if state is not None and state.engaged:
        return YES, ""
    return NO, "; ".join([*([state.reason] if state is not None else []), *report.notes])


def _restored(pipe: Any, tiny: Any) -> str:
    from tests.tiny import run

    before = run(pipe, tiny)
    with accel.accelerate(pipe, Recipe(cache=NEVER)):
        same = _equal(run(pipe, tiny), before)
    return YES if same and _equal(run(pipe, tiny), before) else NO


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def names() -> list[str]:
    from tests.tiny.zoo.inventory import denoising_classes

    return list(denoising_classes())


def rows_of(page: str) -> dict[str, str]:
    """The lines of a page by pipeline."""
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    return {name: line for name, line in lines.items() if name not in (COLUMNS[0], "---")}


def page_of(rows: Iterable[str]) -> str:
    rows = list(rows)
    head = HEAD.format(version=diffusers.__version__, summary="\n".join(f"- {line}" for line in summary(rows)))
    return head + "\n".join([f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS), *rows]) + "\n"


def summary(rows: list[str]) -> Iterator[str]:
    cells = [[cell.strip() for cell in row.split("|")[2:-2]] for row in rows]
    built = [row for row in cells if row[0] != "not tried"]
    yield f"{len(rows)} classes denoise; {len(built)} of them were tried, the others cannot be built here."
    for column, lever in enumerate((*LEVERS, "restored")):
        counts = Counter(row[column] for row in built)
        raises = f", raises on {counts[RAISES]}" if counts[RAISES] else ""
        yield f"{lever}: yes on {counts[YES]} ({counts[YES] / max(len(built), 1):.0%}), no on {counts[NO]}{raises}."


def sentence(rows: Iterable[str]) -> str:
    """The same for the README."""
    cells = [[cell.strip() for cell in row.split("|")[2:-2]] for row in rows]
    built = [row for row in cells if row[0] != "not tried"]
    *others, restored = (sum(row[column] == YES for row in built) for column in range(len(LEVERS) + 1))
    acts = [f"{lever} on {count}" for lever, count in zip(LEVERS, others, strict=True)]
    return (
        f"Any diffusers pipeline that denoises. Of the {len(cells)} classes in diffusers {diffusers.__version__}, "
        f"{len(built)} can be built here, small and with random weights, and were tried with every lever: "
        f"{', '.join(acts[:-1])} and {acts[-1]} of them act, and {restored} are given back bit for bit "
        "([each class, and why not](docs/pipelines.md))."
    )


def measure(options: argparse.Namespace) -> None:
    """Tries every lever on every pipeline class and writes the page, and the sentence in the README."""
    every = names()  # in front of the processes, which then need not import all of diffusers themselves
    wanted = options.only or every
    known = rows_of(PAGE.read_text()) if PAGE.exists() else {}
    with ProcessPoolExecutor(options.processes, initializer=_quiet) as pool:
        lines = {pool.submit(_line, name): name for name in wanted}
        for line in as_completed(lines):  # each is kept as soon as it is there
            known[lines[line]] = line.result()
            print(line.result(), flush=True)
            PAGE.write_text(page_of(known[name] for name in every if name in known))
    told = sentence(rows_of(PAGE.read_text()).values())
    README.write_text(_IN_README.sub(lambda _: told, README.read_text(encoding="utf-8")), encoding="utf-8")


def _line(name: str) -> str:
    try:
        return str(tried(name))
    except Exception as error:  # one class must not end the run
        return str(Row(name, (RAISES,) * (len(LEVERS) + 1), f"without accel: {type(error).__name__}: {error}"))


def _quiet() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()


def main(arguments: list[str] | None = None) -> int:
    parser = command_of("benchmarks.pipelines", measure)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these classes; the other lines stay")
    parser.add_argument("--processes", type=int, default=1, help="classes at a time")
    return run_command(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
