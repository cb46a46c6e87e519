"""In whichever way a denoiser or its blocks are compiled, what lies within a graph is left alone, and reports say so.

Graphs are whole (`fullgraph=True`) and may not be made anew (`error_on_recompile`), so that a layer of ours within one
would raise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch

import accel
from accel.anatomy import anatomy_of
from accel.patch import is_graph, reachable
from accel.unet_layers import unet_layers
from tests.accel.residue import traces
from tests.tiny import TINY, run

HOW: dict[str, Any] = {"backend": "eager", "fullgraph": True}
STEPS = 4
SOON: dict[str, Any] = {"warmup": 1, "final": 1, "min_steps": 1}


def in_place(parent: Any, name: str) -> None:
    getattr(parent, name).compile(**HOW)


def wrapped(parent: Any, name: str) -> None:
    setattr(parent, name, torch.compile(getattr(parent, name), **HOW))


def its_forward(parent: Any, name: str) -> None:
    part = getattr(parent, name)
    part.forward = torch.compile(part.forward, **HOW)


WAYS: dict[str, Callable[[Any, str], None]] = {"in place": in_place, "wrapped": wrapped, "its forward": its_forward}
# A recipe of each way to stand around something, and whether it acts where each block is a graph.
RECIPES: dict[str, tuple[accel.Recipe, bool]] = {
    "boundary": (accel.Recipe(cache=accel.FixedInterval(2, **SOON)), True),
    "probe": (accel.Recipe(cache=accel.TeaCache(1e9, coefficients=(1.0, 0.0), max_skips=1, **SOON)), False),
    "modules": (accel.Recipe(cache=accel.FORA(2, **SOON)), False),
    "attention": (accel.Recipe(attention=accel.Radial(warmup=0.0, dense_layers=0, min_tokens=0)), False),
    "precision": (accel.Recipe(precision=accel.Int8Weights(min_tokens=2)), False),
    "block": (accel.Recipe(cache=accel.FirstBlockCache(1e9, max_skips=1, **SOON)), True),
}


@pytest.fixture(autouse=True)
def no_other_graph() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def compiled(way: str, blocks: bool) -> Any:
    pipe = TINY["wan"].build()
    if blocks:
        listed = pipe.transformer.blocks
        for number in range(len(listed)):
            WAYS[way](listed, str(number))
    else:
        WAYS[way](pipe, "transformer")
    return pipe


@cache
def uncompiled(recipe: str | None) -> torch.Tensor:
    pipe = TINY["wan"].build()
    if recipe is not None:
        accel.accelerate(pipe, RECIPES[recipe][0])
    return run(pipe, TINY["wan"], steps=STEPS)


@pytest.mark.parametrize("way", WAYS)
def test_a_graph_is_told_in_whichever_way_it_was_made(way: str) -> None:
    whole, parts, plain = compiled(way, False).transformer, compiled(way, True).transformer, TINY["wan"].build()
    assert is_graph(whole) and reachable(whole, "blocks.0") is None
    assert not is_graph(parts) and is_graph(parts.blocks[0])
    assert reachable(parts, "blocks.0") is not None and reachable(parts, "blocks.0.attn1") is None
    assert not is_graph(plain.transformer) and reachable(plain.transformer, "blocks.0.attn1") is not None
    with accel.accelerate(plain, RECIPES["boundary"][0]):
        assert not is_graph(plain.transformer)
    plain.transformer.forward = torch.compiler.disable(plain.transformer.forward)
    assert not is_graph(plain.transformer)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", ["transformer", "transformer.blocks.0", "transformer.blocks.0.attn1"])
def test_what_a_denoiser_consists_of_is_known_however_it_is_compiled(way: str, path: str) -> None:
    pipe, (parent, _, name) = TINY["wan"].build(), path.rpartition(".")
    plain = anatomy_of(pipe.transformer)
    WAYS[way](operator.attrgetter(parent)(pipe) if parent else pipe, name)
    assert anatomy_of(pipe.transformer) == plain and plain.modules["self_attention"][0] == "blocks.0.attn1"


def test_the_layers_of_a_unet_are_known_however_its_blocks_are_compiled() -> None:
    unet = TINY["sd"].build().unet
    plain = unet_layers(unet)
    for blocks in (unet.down_blocks, unet.up_blocks):
        wrapped(blocks, "0")
    assert unet_layers(unet) == plain is not None


@pytest.mark.part(2)
@pytest.mark.parametrize("blocks", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("way, recipe", list(product(WAYS, RECIPES)))
def test_each_lever_acts_as_without_the_compiler_or_says_that_it_cannot(way: str, recipe: str, blocks: bool) -> None:
    pipe, (levers, acts_on_blocks) = compiled(way, blocks), RECIPES[recipe]
    plain = run(pipe, TINY["wan"], steps=STEPS)
    acts = recipe == "boundary" or (blocks and acts_on_blocks)
    with accel.accelerate(pipe, levers) as session:
        output = run(pipe, TINY["wan"], steps=STEPS)
        assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), output)
    (report,) = session.report().levers
    assert report.engaged is acts and (acts or "compiled" in report.reason)
    torch.testing.assert_close(output, uncompiled(recipe if acts else None), rtol=1e-4, atol=1e-4)
    assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), plain)
    assert [path for path in traces(pipe) if not path.endswith("._torchdynamo_orig_callable")] == []


@pytest.mark.part(1)
@pytest.mark.parametrize("way", WAYS)
def test_a_denoiser_that_is_compiled_while_accelerated_is_followed(way: str) -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, RECIPES["boundary"][0]) as session:
        accelerated = run(pipe, TINY["wan"], steps=STEPS)
        WAYS[way](pipe, "transformer")
        for _ in range(2):
            output = run(pipe, TINY["wan"], steps=STEPS)
            torch.testing.assert_close(output, accelerated, rtol=1e-4, atol=1e-4)
            assert session.report().predicted
    torch.testing.assert_close(run(pipe, TINY["wan"], steps=STEPS), uncompiled(None), rtol=1e-4, atol=1e-4)
