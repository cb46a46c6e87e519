"""diffusers' own caches stay with diffusers: one is switched on with `enable_cache`, and ours acts beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FirstBlockCacheConfig

import accel
from tests.accel.residue import traces
from tests.accel.witness import plain
from tests.tiny import TINY, run

# What runs in every call of the denoiser, and what diffusers' cache skips.
FIRST_AND_LAST = {
    "wan": ("blocks.0.attn1", "blocks.1.attn1"),
    "flux_true_guidance": ("transformer_blocks.0.attn", "single_transformer_blocks.1.attn"),
}
LEVERS: dict[str, dict[str, Any]] = {
    "both": {"guidance": accel.GuidanceInterval(low=0.5), "sampler": accel.DPMSolver()},
    "cache": {"cache": accel.FixedInterval(2, warmup=2, min_steps=1)},
}


def theirs(pipe: DiffusionPipeline, threshold: float = 0.3) -> None:
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))


def ours(pipe: DiffusionPipeline, levers: str) -> accel.Session:
    return accel.accelerate(pipe, accel.Recipe(**LEVERS[levers]))


@contextmanager
def counted(pipe: DiffusionPipeline, *paths: str) -> Iterator[Counter[str]]:
    """How often these modules of the denoiser run."""
    counts = Counter(dict.fromkeys(paths, 0))
    handles = [
        pipe.transformer.get_submodule(path).register_forward_hook(lambda *_, path=path: counts.update([path]))
        for path in paths
    ]
    yield counts
    for handle in handles:
        handle.remove()


def state(pipe: DiffusionPipeline) -> set[tuple[str, Any]]:
    """The types of the denoiser's modules, and the names of what they have in their attributes."""
    modules = pipe.transformer.named_modules()
    return {(path, found) for path, module in modules for found in (type(module), *vars(module))}


@cache
def left_by_theirs(name: str) -> set[tuple[str, Any]]:
    """What diffusers leaves behind when it was alone."""
    pipe = TINY[name].build()
    theirs(pipe)
    run(pipe, TINY[name])
    pipe.transformer.disable_cache()
    return state(pipe)


@pytest.mark.part(1)
@pytest.mark.parametrize(("name", "levers"), [("wan", "both"), ("wan", "cache"), ("flux_true_guidance", "both")])
def test_ours_and_theirs_act_beside_each_other_whichever_came_first(name: str, levers: str) -> None:
    outputs = []
    for ours_first, ours_off_first in product((True, False), repeat=2):
        pipe = TINY[name].build()
        if ours_first:
            session = ours(pipe, levers)
        theirs(pipe)
        if not ours_first:
            session = ours(pipe, levers)
        first, last = FIRST_AND_LAST[name]
        with counted(pipe, first, last) as counts:
            outputs.append(run(pipe, TINY[name]))
        assert all(lever.engaged for lever in session.report().levers), session.report()
        assert 0 < counts[last] < counts[first], "diffusers' cache skips blocks of the calls that are left"
        undo = [session.restore, pipe.transformer.disable_cache]
        for step in undo if ours_off_first else reversed(undo):
            step()
        assert torch.equal(run(pipe, TINY[name]), plain(name))
        assert traces(pipe) == []
        assert state(pipe) == left_by_theirs(name)
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert not torch.equal(outputs[0], plain(name))


@pytest.mark.part(1)
@pytest.mark.parametrize(("name", "levers"), [("wan", "cache"), ("wan", "both"), ("flux_true_guidance", "both")])
def test_theirs_changes_nothing_of_ours_where_it_skips_nothing(name: str, levers: str) -> None:
    alone, beside = TINY[name].build(), TINY[name].build()
    theirs(beside, threshold=0.0)
    ours(alone, levers), ours(beside, levers)
    assert torch.equal(run(alone, TINY[name]), run(beside, TINY[name]))


def test_a_configuration_of_diffusers_is_no_method_and_the_sentence_says_what_to_do() -> None:
    pipe = TINY["wan"].build()
    with pytest.raises(TypeError) as refusal:
        accel.accelerate(pipe, cache=FirstBlockCacheConfig(threshold=0.1))  # type: ignore[arg-type]
    sentence = str(refusal.value)
    assert sentence.startswith("cache=FirstBlockCacheConfig: ") and "\n" not in sentence
    assert "switch it on with pipe.transformer.enable_cache(...)" in sentence
    assert traces(pipe) == []
