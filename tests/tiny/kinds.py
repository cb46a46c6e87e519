"""Pairs of pipelines and other things to test, chosen so that each of both is met without running every pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.tiny import TINY

KINDS = ("wan", "ltx", "flux", "sd")
"""One pipeline of each way to ask a denoiser: two calls a step, one batched call, an embedded scale, a U-Net."""


def crossed(
    argument: str,
    values: Iterable[Any],
    names: Iterable[str] = TINY,
    ids: Callable[[Any], str] = str,
    kinds: Iterable[str] = KINDS,
) -> pytest.MarkDecorator:
    """Parametrises a test by `name`, a pipeline, and by `argument`.

    The values meet the pipelines of `kinds` like the black squares of a chessboard: each value meets half of these, and
    each of these half of the values (a single one all). Every other pipeline meets one value, each in its turn. All
    other pairs are there too and marked slow: `pytest --slow` runs the full product.
    """
    values, kinds = list(values), list(kinds)

    def runs_always(row: int, name: str, index: int) -> bool:
        return (index + kinds.index(name)) % min(2, len(kinds)) == 0 if name in kinds else index == row % len(values)

    pairs = [
        pytest.param(
            name,
            value,
            id=f"{name}-{ids(value)}",
            marks=() if runs_always(row, name, index) else pytest.mark.slow,
        )
        for row, name in enumerate(names)
        for index, value in enumerate(values)
    ]
    return pytest.mark.parametrize(("name", argument), pairs)


def kinds_only(names: Iterable[str] = TINY, kinds: Iterable[str] = KINDS) -> pytest.MarkDecorator:
    """Parametrises a test by `name`; the pipelines that are not of `kinds` are marked slow."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=() if name in kinds else pytest.mark.slow) for name in names]
    )
