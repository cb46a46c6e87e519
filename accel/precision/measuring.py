"""Chooses a format for each layer by measurement: the least error that a saving of time costs.

The choice is made once, when asked for, and is saved with a recipe: the same call then gives the same output every
time, on whatever machine and however busy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from accel.anatomy import inspect
from accel.components import components_of, denoisers_of
from accel.patch import listening
from accel.precision.format import Format
from accel.precision.layers import FoundLayers, Layer, find_layers
from accel.precision.method import known_formats
from accel.precision.methods.layer_formats import LayerFormats
from accel.precision.sparing import FEW
from accel.session import bare

EXACT = ""  # the name of the model's own precision
TIMED = 3  # products of each format and layer, of which the fastest counts
ASKED = (1, 4, 16, 64)  # the calls of a layer at which it is measured


class FormatCost(NamedTuple):
    """What a layer costs in a format: seconds of one product, and the squared relative error of its output."""

    format: str
    seconds: float
    error: float


def measure(pipe: Any, call: Callable[[Any], object], saved: float = 0.9) -> LayerFormats:
    """The formats in which this pipeline's layers save the most for what they lose, as a method for a recipe.

    Source: HAWQ-V3 (arXiv 2011.10680), whose integer programme this is, with measured errors for its estimated ones.
    call: `call(pipe)` runs the pipeline once as it is going to be used; its layers are measured with what they receive
    then, so few steps do. saved: the share, from 0 to 1, of the time that can be saved at all.
    Each product is timed in every format on this machine, so nothing else should be running. The session of an
    accelerated pipeline is suspended meanwhile. Costs some ten products of each layer.

    Raises ValueError for a share out of range, and where no layer gains.
    """
    if not 0.0 < saved <= 1.0:
        raise ValueError(f"saved must be a share of the time above 0 and up to 1, not {saved!r}.")
    with bare(pipe):
        costs = _measured(pipe, call)
    chosen = {layer: name for layer, name in choose(costs, saved).items() if name != EXACT}
    if not chosen:
        raise ValueError("No layer that the call ran is faster in fewer bits on this machine: leave precision off.")
    return LayerFormats(tuple(f"{layer}={name}" for layer, name in chosen.items()), min_tokens=FEW)


def choose(costs: Mapping[str, Sequence[FormatCost]], saved: float) -> dict[str, str]:
    """A format for each layer: the least sum of errors with which this share of the time that can be saved is saved.

    From each layer's most exact format on, the step to a faster one that adds the least error for the time it saves is
    taken, among all layers, until enough is saved: within one step of the best there is (the steps of a layer get
    dearer, because formats that are worse than a mixture of two others are left out).
    """
    stairs = {layer: _worthwhile(given) for layer, given in costs.items()}
    wanted = saved * sum(stair[0].seconds - stair[-1].seconds for stair in stairs.values())
    steps = [
        (_slope(one, other), layer, one, other) for layer, stair in stairs.items() for one, other in pairwise(stair)
    ]
    chosen = {layer: stair[0].format for layer, stair in stairs.items()}
    done = 0.0
    for _, layer, one, other in sorted(steps, key=lambda step: step[0]):
        if done >= wanted * (1 - 1e-9):
            break
        chosen[layer], done = other.format, done + one.seconds - other.seconds
    return chosen


def _worthwhile(costs: Sequence[FormatCost]) -> list[FormatCost]:
    """From the most exact to the fastest, those that no other and no mixture of two others is better than."""
    stair: list[FormatCost] = []
    for cost in sorted(costs, key=lambda cost: (cost.error, cost.seconds)):
        if stair and cost.seconds >= stair[-1].seconds:
            continue
        while len(stair) > 1 and _slope(stair[-2], stair[-1]) >= _slope(stair[-1], cost):
            stair.pop()
        stair.append(cost)
    return stair


def _slope(one: FormatCost, other: FormatCost) -> float:
    """The error that each second costs which the second of two formats saves."""
    return (other.error - one.error) / max(one.seconds - other.seconds, 1e-12)


def _measured(pipe: Any, call: Callable[[Any], object]) -> dict[str, list[FormatCost]]:
    formats = known_formats()
    convolutions = any(format.convolutions for format in formats.values())
    found: FoundLayers = find_layers(dict(denoisers_of(components_of(pipe))), inspect(pipe), convolutions=convolutions)
    heard: dict[str, list[dict[str, FormatCost]]] = {}
    with ExitStack() as stack:
        for (name, path), layer in found.layers.items():
            rows = heard.setdefault(f"{name}/{path}", [])
            stack.enter_context(listening(layer, "input", _Listener(partial(_costs, layer, formats), rows)))
        call(pipe)
    return {layer: _together(rows) for layer, rows in heard.items() if rows}


class _Listener:
    """Measures a layer at some of its calls, with what it receives."""

    def __init__(
        self, measure: Callable[[torch.Tensor], dict[str, FormatCost]], rows: list[dict[str, FormatCost]]
    ) -> None:
        self._measure, self._rows, self._calls = measure, rows, 0

    def __call__(self, x: Any) -> None:
        self._calls += 1
        if self._calls in ASKED and isinstance(x, torch.Tensor):
            self._rows.append(self._measure(x.detach()))


@torch.no_grad()
def _costs(layer: Layer, formats: Mapping[str, Format], x: torch.Tensor) -> dict[str, FormatCost]:
    exact = type(layer).forward.__get__(layer)
    right = exact(x)
    found = {EXACT: FormatCost(EXACT, _seconds(lambda: exact(x)), 0.0)}
    for name, format in formats.items():
        if format.why_not(layer) or (isinstance(layer, torch.nn.Conv2d) and not format.convolutions):
            continue
        weights = format.weights(layer)

        def product(format: Format = format, weights: Sequence[torch.Tensor] = weights) -> torch.Tensor:
            return format.product(format.activations(x), weights, layer, x, x.dtype)

        error = (product() - right).float().norm() / right.float().norm().clamp_min(1e-12)
        found[name] = FormatCost(name, _seconds(product), float(error) ** 2)
    return found


def _seconds(act: Callable[[], object]) -> float:
    best = math.inf
    for _ in range(TIMED):
        start = time.perf_counter()
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _together(rows: Sequence[dict[str, FormatCost]]) -> list[FormatCost]:
    """The least time of each format, which others disturbed least, and the mean error."""
    return [
        FormatCost(name, min(row[name].seconds for row in rows), sum(row[name].error for row in rows) / len(rows))
        for name in rows[0]
        if all(name in row for row in rows)
    ]
