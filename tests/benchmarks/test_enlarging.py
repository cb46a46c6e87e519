"""benchmarks.enlarging: what its rows make, without making it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import accel
from accel import Recipe
from benchmarks import enlarging


def test_seeds_are_ranked_by_clips_of_homes_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier knows no others, and no seed is tried for two prompts."""
    seen: list[Any] = []

    def best_of(*args: Any, **given: Any) -> Any:
        seen.append((args, given))
        return SimpleNamespace(output=0)

    monkeypatch.setattr(accel, "best_of", best_of)
    for number in (0, 1):
        enlarging.best(None, "a prompt", number, side=128, recipe=Recipe(), ranked=lambda: lambda frames, _: frames)
    (_, _, first), (_, _, second) = (args for args, _ in seen)
    assert not set(first) & set(second) and len(first) == 5
    large = np.arange(128, dtype=np.float32).repeat(2 * 128 * 3).reshape(1, 128, 2 * 128, 3)[:, :, :128]
    small = seen[0][1]["verifier"](large, "a prompt")
    assert small.shape == (1, 64, 64, 3)
    assert np.allclose(small[0, :, 0, 0], np.arange(64) * 2 + 0.5)


def test_rows_are_chosen_by_their_words() -> None:
    names = list(enlarging.rows(128, lambda *_: 0.0, Recipe()))
    chosen = [name for name in names if enlarging._asked(name, ["Coarse", "best"])]
    assert chosen == ["128x128, `CoarseToFine` and cache", "128x128, the best of five of them"]
    assert all(enlarging._asked(name, None) for name in names)


def test_the_table_has_intervals_and_times_beside_the_first_row() -> None:
    found = {"plain": [(4.0, False), (4.0, True)], "fast": [(1.0, True), (1.0, True)]}
    *_, plain, fast = enlarging.table(found).splitlines()
    assert plain.startswith("| plain | 1.00 | 50% [") and fast.startswith("| fast | 0.25 | 100% [")
