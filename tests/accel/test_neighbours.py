"""Whatever else is put on a pipeline, before ours or after it, does there what it does without us, and so do we."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import accel
from accel import FixedInterval
from tests.accel.neighbours import OF_TRANSFORMERS, OF_UNETS, denoiser
from tests.accel.residue import traces
from tests.tiny import TINY, run

OURS = "ours"
NEIGHBOURS = {"wan": OF_TRANSFORMERS, "flux": OF_TRANSFORMERS, "sd": OF_UNETS}
RECIPE = accel.Recipe(cache=FixedInterval(2, warmup=1, min_steps=1))
STEPS = 4

Changes = tuple[tuple[bool, str], ...]  # what is put on (True) or taken off


class Bench:
    """A fresh pipeline, on which ours and others are put on and taken off; in the end all are off."""

    def __init__(self, name: str) -> None:
        self.name, self.pipe = name, TINY[name].build()
        self._undo: dict[str, Any] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        for what in reversed(tuple(self._undo)):  # cache-dit replaces methods of the class
            self.change(False, what)

    def change(self, on: bool, what: str) -> None:
        if not on:
            self._undo.pop(what)()
        elif what == OURS:
            self._undo[what] = accel.accelerate(self.pipe, RECIPE).restore
        else:
            self._undo[what] = NEIGHBOURS[self.name][what](self.pipe)

    def output(self) -> torch.Tensor:
        return run(self.pipe, TINY[self.name], steps=STEPS)

    def state(self) -> dict[str, set[Any]]:
        """The types of the pipeline and of all modules, and the names of what they have in their attributes."""
        parts = {"pipe": self.pipe, "scheduler": self.pipe.scheduler, **dict(denoiser(self.pipe).named_modules())}
        state = {path: {type(part), *vars(part)} for path, part in parts.items()}
        return state | {"class": {name for name in vars(type(self.pipe)) if not name.startswith("__")}}


@cache
def without_us(name: str, others: Changes) -> tuple[torch.Tensor, dict[str, set[Any]]]:
    """The output and the state after these changes, with a run after each of them."""
    with Bench(name) as bench:
        output = bench.output()
        for change in others:
            bench.change(*change)
            output = bench.output()
        return output, bench.state()


@cache
def with_us(name: str, others: Changes) -> torch.Tensor:
    """The output with ours put on after these changes."""
    with Bench(name) as bench:
        for change in (*others, (True, OURS)):
            bench.change(*change)
        return bench.output()


def check(name: str, changes: Changes, between: bool) -> None:
    """Makes the changes and looks at the output after each of them (or at the end)."""
    expected, others, ours = [], (), False
    for change in changes:
        ours, others = (change[0], others) if change[1] == OURS else (ours, (*others, change))
        expected.append(with_us(name, others) if ours else without_us(name, others)[0])
    last = without_us(name, others)[1]
    with Bench(name) as bench:
        bench.output()
        for number, change in enumerate(changes, 1):
            bench.change(*change)
            if between or number in (len(changes) // 2, len(changes)):
                assert torch.equal(bench.output(), expected[number - 1]), f"after {changes[:number]}"
        assert traces(bench.pipe) == []
        assert {path: more for path, found in bench.state().items() if (more := found - last[path])} == {}
