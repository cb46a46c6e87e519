"""The README's numbers are those of the pages that the commands write."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOLDS = (ROOT / "docs" / "holds.md").read_text(encoding="utf-8")
JUDGES = ("photos", "cells", "waves", "films", "glyphs", "terrain")


def row(page: str, name: str) -> list[str]:
    """The cells of the first row that begins with this name."""
    found = re.search(rf"^\| {name}\b.*$", page, re.MULTILINE)
    assert found is not None
    return [cell.strip() for cell in found[0].split("|")[1:-1]]


def gains(judge: str, share: str) -> str:
    """Above fewer steps at 50 steps: the mean of all schedulers and scales, and the worst of them."""
    rows = re.findall(rf"^\| {judge}, .*, 50 steps \|.*$", HOLDS, re.MULTILINE)
    found = [float(re.findall(rf" {share}: [\d.]+ ([+-][\d.]+) \(", each)[0]) for each in rows]
    assert len(found) == 4
    return f"{mean(found):+.1f} ({min(found):+.1f})"


@pytest.mark.parametrize("judge", JUDGES)
def test_what_was_left_out_is_what_the_page_has(judge: str) -> None:
    shown = row(README, judge)[1:4]
    for cell, share in zip(shown, ("0.66", "0.34", "0.22"), strict=True):
        ours, theirs = (re.findall(r"[+-][\d.]+", text) for text in (cell, gains(judge, share)))
        assert [float(value) for value in ours] == pytest.approx([float(value) for value in theirs], abs=0.11)


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize(("column", "promise"), [(4, "40 dB"), (5, "30 dB")])
def test_speeds_stand_beside_fewer_steps_and_the_best_other_library(judge: str, column: int, promise: str) -> None:
    table = HOLDS.partition(f"| at {promise} in 95 % of clips |")[2]
    if f"\n| {judge}, " not in table.partition("\n\n")[0]:
        assert row(README, judge)[column] in ("no other attaches", "")
        return
    _, _, composed, _, fewer, other, *_ = row(table, judge)
    ours, plain, theirs = row(README, judge)[column].split(", ")
    assert ours == short(composed)
    assert plain == (short(fewer) if fewer[0].isdigit() else fewer)
    assert theirs == (other if other == "none" else f"{short(other)} {re.split(r'[(:)]', other)[1]}")


def test_what_fitting_gives_is_what_its_page_has() -> None:
    page = (ROOT / "docs" / "fitting.md").read_text(encoding="utf-8")
    told = re.search(
        r"with 28 % of .* it is ([\d.]+) dB above .* of (\d+) combinations .* in all (\d+), "
        r"where `OptimalSchedule` is ([\d.]+) dB above, and in (\d+)\.",
        README,
    )
    assert told is not None
    for method, (gain, above) in {"FittedSchedule": told.group(1, 3), "OptimalSchedule": told.group(4, 5)}.items():
        cells = re.search(
            rf"^\| 0\.28 \| `{method}` \| [\d.]+ \| \+([\d.]+) \| \d+ of (\d+) cases \| (\d+) ", page, re.M
        )
        assert cells is not None and cells.groups() == (gain, told[2], above)


def short(cell: str) -> str:
    """ "5.57x (7 of 15 steps)" as 5.6x."""
    return f"{float(cell.partition('x')[0]) + 1e-9:.1f}x"


def test_it_is_short_and_names_every_extra_that_there_is() -> None:
    assert len(README.splitlines()) <= 115
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {"app", "ray", "gpu", "quant", "docs"} <= set(extras)
    assert set(re.findall(r"\"\.\[(\w+)\]\"", README)) <= set(extras)
