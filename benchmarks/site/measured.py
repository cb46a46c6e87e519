"""Where a method was measured: the rows of the documents' tables that name it, so that its page says nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TABLES = (
    "every-method.md",
    "numbers.md",
    "holds.md",
    "fitting.md",
    "precision.md",
    "levers.md",
    "negative-results.md",
)
_DESCRIPTIONS = ("decides by", "a skipped output is", "reuses", "the unconditional pass is", "update", "what it does",
                 "computes", "the denoiser is evaluated")  # fmt: skip
"""Last or second columns of tables that list methods and measure nothing."""
_LISTINGS = {"frontier/frontier.txt": "`make frontier`", "tuning/bench.txt": "`make bench`"}
_COLUMNS = ("speed-up", "PSNR", "worst", "SSIM", "prompt", "memory")
_LABELS = {"OptimalSchedule": "optimal schedule", "FixedInterval": "interval", "TGate": "T-GATE"}
"""What a method is called in listings, where that is not its name."""


def measured(name: str, up: str) -> str:
    """Markdown with all of it; "" for nothing. up: the way from the page to the site's root."""
    return "\n\n".join([*_rows(name, up), *_listed(name), *_told(name, up)])


def _rows(name: str, up: str) -> Iterator[str]:
    for page in _TABLES:
        for table in _tables(page):
            rows = [row for row in table[2:] if _names(name, row) or _names(name, table[0])]
            if rows and not any(cell.strip() in _DESCRIPTIONS for cell in table[0].split("|")):
                source = f"From [{page.removesuffix('.md')}]({up}/{page}):\n"
                yield "\n".join([source, *table[:2], *map(_unlinked, rows)])


def _listed(name: str) -> Iterator[str]:
    label = re.compile(rf"^ {re.escape(_LABELS.get(name, name))}\b(?! \+)")
    for path, command in _LISTINGS.items():
        lines = _text(path).splitlines()
        names = next(line for line in lines if "speed-up" in line).split()
        rows = [_cells(line, names) for line in lines if label.match(line)]
        if rows:
            head = [f"| | {' | '.join(_COLUMNS)} |", "| --- " * (len(_COLUMNS) + 1) + "|"]
            yield "\n".join([f"{lines[0].strip()} ({command}):\n", *head, *rows])


def _cells(line: str, names: list[str]) -> str:
    """A row of a listing, which has every column, as one of a table with the columns that matter."""
    label, *cells = re.split(r"\s{2,}", line.strip())
    found = dict(zip(names, cells, strict=False))
    return f"| {label} | {' | '.join(found.get(name, '') for name in _COLUMNS)} |"


def _told(name: str, up: str) -> Iterator[str]:
    """Paragraphs on what did not pay."""
    for paragraph in _text("negative-results.md").split("\n\n"):
        if _names(name, paragraph) and not paragraph.startswith(("|", "#", "```")):
            quoted = _unlinked(paragraph).replace("\n", "\n> ")
            yield f"From [what did not pay]({up}/negative-results.md):\n\n> {quoted}"


def _names(name: str, text: str) -> bool:
    return re.search(rf"`{name}[`(]", text) is not None


def _unlinked(text: str) -> str:
    """Links lead from another place here."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


@cache
def _tables(page: str) -> list[list[str]]:
    blocks = re.findall(r"(?:^\|.*\n)+", _text(page), re.MULTILINE)
    return [block.splitlines() for block in blocks]


@cache
def _text(path: str) -> str:
    return (ROOT / "docs" / path).read_text(encoding="utf-8")
