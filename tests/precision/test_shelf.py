"""Weights that are in files for a while are the same numbers, and come back as what they are by then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import accel
from accel import Int8Weights
from accel.precision.shelf import Shelf
from accel.recipe import Recipe
from tests.tiny import TINY, run

REPLACED = Recipe(precision=Int8Weights(min_tokens=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_are_the_same_there_and_afterwards(dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.randn(5, 7).to(dtype))
    before, address, shelf = weight.detach().clone(), weight.data_ptr(), Shelf()
    assert shelf.put_away(weight) and weight.data_ptr() != address
    assert torch.equal(weight, before) and shelf.bytes == before.numel() * before.element_size()
    away = weight.data_ptr()
    shelf.bring_back()
    assert torch.equal(weight, before) and weight.data_ptr() != away


def test_what_others_do_to_them_meanwhile_stays() -> None:
    changed, exchanged = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    shelf = Shelf()
    assert shelf.put_away(changed) and shelf.put_away(exchanged)
    changed.data.mul_(2)
    exchanged.data = other = torch.full((4, 4), 3.0)
    shelf.bring_back()
    assert torch.equal(changed, torch.full((4, 4), 2.0)) and exchanged.data_ptr() == other.data_ptr()


def test_memory_that_others_use_too_is_left() -> None:
    whole = torch.ones(8, 4)
    part = torch.nn.Parameter(whole[:4])
    assert not Shelf().put_away(part) and part.data_ptr() == whole.data_ptr()


def test_they_are_away_during_a_call_and_back_after_it_or_an_exception() -> None:
    pipe = TINY["wan"].build()
    plain = run(pipe, TINY["wan"], steps=3)
    weight = pipe.transformer.blocks[0].attn1.to_q.weight
    before, seen = weight.data_ptr(), list[int]()

    def stop(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        seen.append(weight.data_ptr())
        if step == 1:
            raise InterruptedError
        return {}

    with accel.accelerate(pipe, REPLACED) as session:
        with pytest.raises(InterruptedError):
            run(pipe, TINY["wan"], steps=3, callback_on_step_end=stop)
        # The last numbers may be given the memory that the first left, so `before` and the address now can be one.
        assert len(set(seen)) == 1 and seen[0] not in (before, weight.data_ptr())
        assert "of the model's own weights were in files meanwhile" in session.report().levers[0].reason
        with session.suspended():
            assert torch.equal(run(pipe, TINY["wan"], steps=3), plain)
        near = run(pipe, TINY["wan"], steps=3)
    assert torch.equal(run(pipe, TINY["wan"], steps=3), plain) and not torch.equal(near, plain)


def test_it_computes_what_weights_beside_would_and_converts_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, Recipe(precision=replace(REPLACED.precision, memory="beside"))):  # type: ignore[type-var]
        beside = run(pipe, TINY["wan"], steps=3)
    converted: list[Any] = []
    kind = next(iter(Int8Weights().formats().values())).__class__
    made = kind.weights
    monkeypatch.setattr(kind, "weights", lambda self, layer: converted.append(layer) or made(self, layer))
    with accel.accelerate(pipe, REPLACED):
        assert torch.equal(run(pipe, TINY["wan"], steps=3), beside)
        first = len(converted)
        assert torch.equal(run(pipe, TINY["wan"], steps=3), beside)
    assert len(converted) == first > 0
