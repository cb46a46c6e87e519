"""The measurement of all levers together: it goes on where it was, and its table says what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.another_clip import ALL, COARSE, PLAIN, ROWS, OneClip, compared, kept, left, table

PROMPTS = [str(number) for number in range(20)]


def clip_of(row: str, prompt: str, correct: bool, seconds: float) -> OneClip:
    return OneClip(row, prompt, correct, seconds, 12.0)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    first = kept(tmp_path, (0, 2), {"prompt_seed": 11})
    first.add(clip_of(PLAIN, "0", True, 50.0))
    first.add(clip_of(ALL, "0", True, 7.0))
    again = kept(tmp_path, (0, 2), {"prompt_seed": 11})
    assert list(again.values()) == list(first.values())
    assert list(left(again, PROMPTS[:3], {name: ROWS[name] for name in (PLAIN, ALL)}, (0, 2))) == [
        (PLAIN, 2),
        (ALL, 2),
    ]
    with pytest.raises(ValueError, match="holds runs with other settings"):
        kept(tmp_path, (0, 2), {"prompt_seed": 12})


def test_two_parts_make_every_clip_once_and_some_rows_only_the_first_prompts(tmp_path: Path) -> None:
    halves = [list(left(kept(tmp_path, (part, 2), {}), PROMPTS, ROWS, (part, 2))) for part in (0, 1)]
    every = [*halves[0], *halves[1]]
    assert len(set(every)) == len(every)
    assert {number for name, number in every if name == ALL} == set(range(20))
    assert {number for name, number in every if name == COARSE} == set(range(16))


def test_a_clip_is_compared_with_the_unaccelerated_one_of_an_earlier_process(tmp_path: Path) -> None:
    frames = np.full((2, 4, 4, 3), 0.5, np.float32)
    compared(tmp_path, PLAIN, 3, frames)
    assert compared(tmp_path, ALL, 3, frames + 0.1) == pytest.approx(20.0, abs=0.01)


def test_the_table_compares_each_row_with_the_unaccelerated_clips_of_its_own_prompts() -> None:
    found = [clip_of(PLAIN, prompt, prompt in "ab", 50.0) for prompt in "abcd"]
    found += [clip_of(ALL, prompt, prompt != "d", 5.0) for prompt in "abcd"]
    found += [clip_of(COARSE, prompt, False, 25.0) for prompt in "ab"]
    plain, whole, coarse = table(found).splitlines()[2:]
    assert plain == f"| {PLAIN} | 1 (50.0 s) | 50% [15, 85] of 4 | | | |"
    assert whole.startswith(f"| {ALL} | 10.00 [10.00, 10.00] | 75% [30, 95] of 4 | 50% [15, 85] of 4 | +25 [")
    assert coarse.startswith(f"| {COARSE} | 2.00 [2.00, 2.00] | 0% [0, 66] of 2 | 100% [34, 100] of 2 | -100 [")
