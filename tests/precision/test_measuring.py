"""The choice of formats is a function of measured numbers; what is measured is what layers receive."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import accel
from accel import LayerFormats, precision
from accel.precision import integers, measuring
from accel.precision.format import Format
from accel.precision.measuring import FormatCost, choose
from accel.recipe import Recipe
from tests.tiny import TINY, run


def costs(**layers: list[tuple[str, float, float]]) -> dict[str, list[FormatCost]]:
    return {layer: [FormatCost(*cost) for cost in given] for layer, given in layers.items()}


TWO = costs(
    wide=[("", 10.0, 0.0), ("bfloat16", 4.0, 1.0), ("int8", 2.0, 9.0)],
    narrow=[("", 3.0, 0.0), ("bfloat16", 2.0, 1.0), ("int8", 2.5, 9.0)],
)


@pytest.mark.parametrize(
    ("saved", "wide", "narrow"),
    [
        (0.0, "", ""),
        (0.5, "bfloat16", ""),
        (0.7, "bfloat16", "bfloat16"),
        (1.0, "int8", "bfloat16"),
    ],
)
def test_the_cheapest_error_is_taken_first(saved: float, wide: str, narrow: str) -> None:
    assert choose(TWO, saved) == {"wide": wide, "narrow": narrow}


def test_a_format_that_is_slower_or_worse_than_a_mixture_is_left_out() -> None:
    never = costs(a=[("", 10.0, 0.0), ("slow", 11.0, 0.1), ("dear", 9.0, 5.0), ("good", 5.0, 5.1)])
    assert {choose(never, share / 10)["a"] for share in range(11)} == {"", "good"}


def test_it_is_within_one_step_of_the_best_there_is() -> None:
    draw = random.Random(0)
    for _ in range(20):
        drawn = {
            str(layer): [FormatCost("", 1.0, 0.0)]
            + [FormatCost(name, draw.uniform(0.1, 0.9), draw.uniform(0.1, 2.0)) for name in ("b", "i")]
            for layer in range(4)
        }
        chosen = choose(drawn, 0.6)
        picked = [next(cost for cost in drawn[layer] if cost.format == name) for layer, name in chosen.items()]
        saving = sum(1.0 - cost.seconds for cost in picked)
        most = sum(1.0 - min(cost.seconds for cost in given) for given in drawn.values())
        assert saving >= 0.6 * most * (1 - 1e-9)
        best = min(
            sum(cost.error for cost in combination)
            for combination in itertools.product(*drawn.values())
            if sum(1.0 - cost.seconds for cost in combination) >= 0.6 * most
        )
        assert best <= sum(cost.error for cost in picked) <= best + 2.0


def seconds_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if exact products took longest, whatever the machine does meanwhile: a layer's own comes first."""
    asked: list[object] = []
    number = 1 + len(precision.method.known_formats())

    def fake(act: object) -> float:
        asked.append(act)
        return 2.0 if len(asked) % number == 1 else 1.0

    monkeypatch.setattr(measuring, "_seconds", fake)
    if not integers.kernel("cpu"):
        monkeypatch.setattr(integers, "kernel", lambda device: "torch")
    monkeypatch.setattr(Format, "why_not", lambda self, layer: "")
    for format in precision.method.known_formats().values():
        monkeypatch.setattr(type(format), "why_not", lambda self, layer: "")


def test_what_was_measured_is_frozen_in_a_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seconds_by_turn(monkeypatch)
    pipe = TINY["wan"].build()
    plain = run(pipe, TINY["wan"], steps=2)
    method = precision.measure(pipe, lambda pipe: run(pipe, TINY["wan"], steps=2), saved=1.0)
    assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)
    assert all(entry.startswith("transformer/blocks.") for entry in method.formats_by_layer)
    Recipe(precision=method).save(tmp_path / "recipe.json")
    recipe = Recipe.load(tmp_path / "recipe.json")
    assert recipe.precision == method
    with accel.accelerate(pipe, Recipe(precision=replace(method, min_tokens=2))) as session:
        first, second = run(pipe, TINY["wan"], steps=2), run(pipe, TINY["wan"], steps=2)
    assert session.report().levers[0].engaged and torch.equal(first, second) and not torch.equal(first, plain)


def test_layers_that_are_not_named_stay_exact() -> None:
    pipe = TINY["wan"].build()
    method = LayerFormats(("transformer/blocks.0.attn1.to_q=int8 weights",), min_tokens=2)
    with accel.accelerate(pipe, Recipe(precision=method)) as session:
        run(pipe, TINY["wan"], steps=2, guidance=False)
    assert "of 2 products of 1 layers 2 in int8 weights" in session.report().levers[0].reason


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"make it with accel\.precision\.measure"):
        LayerFormats()
    with pytest.raises(ValueError, match=r"one of the formats .*int8"):
        LayerFormats(("transformer/blocks.0.attn1.to_q=int5",))
    with pytest.raises(ValueError, match="saved must be a share"):
        precision.measure(TINY["wan"].build(), lambda pipe: None, saved=0.0)
    with pytest.raises(ValueError, match="No layer that the call ran is faster"):
        precision.measure(TINY["wan"].build(), lambda pipe: None)
