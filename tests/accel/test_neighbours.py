"""Whatever else is put on a pipeline, before ours or after it, does there what it does without us, and so do we."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import combinations, permutations, product
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import accel
from accel import EasyCache, FixedInterval, SeaCache
from tests.accel.neighbours import OF_TRANSFORMERS, OF_UNETS, denoiser
from tests.accel.residue import traces
from tests.accel.test_threads import Stateful
from tests.tiny import TINY, run

OURS = "ours"
NEIGHBOURS = {"wan": OF_TRANSFORMERS, "flux": OF_TRANSFORMERS, "sd": OF_UNETS}
RECIPE = accel.Recipe(cache=FixedInterval(2, warmup=1, min_steps=1))
STEPS = 3

Changes = tuple[tuple[bool, str], ...]  # what is put on (True) or taken off


class Bench:
    """A pipeline on which ours and others are put on and taken off."""

    def __init__(self, name: str) -> None:
        self.name, self.pipe = name, TINY[name].build()
        self._undo: dict[str, Any] = {}

    def change(self, on: bool, what: str) -> None:
        if not on:
            self._undo.pop(what)()
        elif what == OURS:
            self._undo[what] = accel.accelerate(self.pipe, RECIPE).restore
        else:
            self._undo[what] = NEIGHBOURS[self.name][what](self.pipe)

    def clear(self) -> None:
        for what in reversed(tuple(self._undo)):
            self.change(False, what)

    def output(self) -> torch.Tensor:
        return run(self.pipe, TINY[self.name], steps=STEPS)

    def state(self) -> set[tuple[str, Any]]:
        """The types of the pipeline and of all modules, and the names of what they have in their attributes."""
        parts = {"pipe": self.pipe, "scheduler": self.pipe.scheduler, **dict(denoiser(self.pipe).named_modules())}
        state = {(path, found) for path, part in parts.items() for found in (type(part), *vars(part))}
        return state | {("class", name) for name in vars(type(self.pipe)) if not name.startswith("__")}


@cache
def without_us(name: str, others: Changes) -> torch.Tensor:
    """The output after these changes."""
    return after(name, others)


@cache
def with_us(name: str, others: Changes) -> torch.Tensor:
    """The output with ours put on after these changes."""
    return after(name, (*others, (True, OURS)))


def after(name: str, changes: Changes) -> torch.Tensor:
    bench = Bench(name)
    for change in changes:
        bench.change(*change)
    output = bench.output()
    bench.clear()  # not for its own sake: cache-dit replaces methods of the pipeline's class
    return output


def orders(others: tuple[str, ...]) -> Iterator[Changes]:
    """Every order in which ours and the others can be put on, with every order in which they can be taken off."""
    for on, off in product(permutations((OURS, *others)), repeat=2):
        yield (*((True, what) for what in on), *((False, what) for what in off))


@cache
def alone(name: str, others: Changes) -> set[tuple[str, Any]] | None:
    """What the others leave behind without us; None where they do not get along with each other."""
    bench = Bench(name)
    plain = bench.output()
    try:
        for change in others:
            bench.change(*change)
            output = bench.output()
    except (AttributeError, KeyError):  # cache-dit or DeepCache beside hooks of diffusers
        bench.clear()
        return None
    forward = vars(denoiser(bench.pipe)).get("forward")  # a method, unless a wrapper was put back by another's undoing
    clean = forward is None or getattr(forward, "__self__", None) is denoiser(bench.pipe)
    return bench.state() if clean and torch.equal(output, plain) else None


def check(name: str, others: tuple[str, ...], between: bool) -> None:
    """Makes the changes in every order, and looks at the output after each change, or when all are on and when all are
    off. In the end there is nothing that the others do not leave when they are alone.
    """
    allowed, checked = set(), 0
    for changes in orders(others):
        bench = Bench(name)  # cache-dit does not come on again behind hooks of diffusers where it has been before
        left = alone(name, tuple(change for change in changes if change[1] != OURS))
        if left is None:
            continue
        expected = [expectation(name, changes[:number]) for number in range(1, len(changes) + 1)]
        for number, change in enumerate(changes, 1):
            bench.change(*change)
            if between or number in (len(changes) // 2, len(changes)):
                assert torch.equal(bench.output(), expected[number - 1]), f"after {changes[:number]}"
        assert traces(bench.pipe) == [], f"after {changes}"
        allowed |= left
        assert bench.state() - allowed == set(), f"after {changes}"
        checked += 1
    assert checked


def expectation(name: str, changes: Changes) -> torch.Tensor:
    others = tuple(change for change in changes if change[1] != OURS)
    on = [change[0] for change in changes if change[1] == OURS]
    return with_us(name, others) if on == [True] else without_us(name, others)


PAIRS = [(name, (other,)) for name in ("wan", "sd") for other in NEIGHBOURS[name]]
TRIPLES = [(name, pair) for name, others in NEIGHBOURS.items() for pair in combinations(others, 2)]


@pytest.mark.part(1)
@pytest.mark.parametrize("name, others", PAIRS)
def test_two_neighbours_are_right_in_every_order_of_coming_and_going(name: str, others: tuple[str, ...]) -> None:
    check(name, others, between=True)


@pytest.mark.part(1)
@pytest.mark.parametrize("name, other", [("wan", "cache-dit"), ("wan", "group offload"), ("sd", "DeepCache")])
def test_also_where_nothing_runs_between(name: str, other: str) -> None:
    check(name, (other,), between=False)


@pytest.mark.slow
def test_three_neighbours_are_right_in_every_order_of_coming_and_going() -> None:
    check("wan", ("cache-dit", "LoRA"), between=False)


@pytest.mark.slow
@pytest.mark.parametrize("name, others", TRIPLES)
def test_any_three_neighbours_are_right_in_every_order(name: str, others: tuple[str, ...]) -> None:
    check(name, others, between=True)
    check(name, others, between=False)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sd"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_layerwise_casting_which_nothing_takes_off(name: str, ours_first: bool) -> None:
    def cast(pipe: DiffusionPipeline) -> None:
        types = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
        denoiser(pipe).enable_layerwise_casting(**types)

    bench, usual = Bench(name), Bench(name)
    cast(usual.pipe)
    expected = usual.output()
    if ours_first:
        bench.change(True, OURS)
        cast(bench.pipe)
    else:
        cast(bench.pipe)
        bench.change(True, OURS)
    outputs = [bench.output(), bench.output()]
    usual.change(True, OURS)
    assert torch.equal(usual.output(), outputs[0]) and torch.equal(*outputs)
    bench.change(False, OURS)
    assert torch.equal(bench.output(), expected)
    assert traces(bench.pipe) == []


# Libraries that replace the pipeline's class


@pytest.mark.part(1)
@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("ours_off_first", [True, False])
@pytest.mark.parametrize("through", [type, lambda pipe: pipe.__class__], ids=["type(pipe)", "pipe.__class__"])
def test_a_class_of_somebody_else_stays_and_goes_as_it_would_without_us(
    ours_first: bool, ours_off_first: bool, through: Any
) -> None:
    pipe, calls = TINY["wan"].build(), []
    own = type(pipe)
    taken: list[Any] = []

    def on() -> None:
        base = through(pipe)
        taken.append(base)

        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return base.__call__(self, *args, **kwargs)

        pipe.__class__ = type("Theirs", (base,), {"__call__": called})

    def off() -> None:
        pipe.__class__ = taken.pop()

    steps = [on]
    steps.insert(0 if ours_first else 1, lambda: accel.accelerate(pipe, RECIPE))
    for step in steps:
        step()
    assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), with_us("wan", ())) and len(calls) == 1
    steps = [off]
    steps.insert(0 if ours_off_first else 1, lambda: accel.restore(pipe))
    steps[0]()
    assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), (without_us if ours_off_first else with_us)("wan", ()))
    assert len(calls) == 1 + ours_off_first
    steps[1]()
    assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), without_us("wan", ()))
    assert vars(own) == vars(type(TINY["wan"].build())) and type(pipe) is own and len(calls) == 1 + ours_off_first


def test_the_type_of_an_accelerated_pipeline_is_its_class_for_all_who_ask() -> None:
    pipe = TINY["wan"].build()
    own = type(pipe)
    with accel.accelerate(pipe, RECIPE):
        kind = type(pipe)
        assert pipe.__class__ is own and type(kind(**pipe.components)) is own
        assert isinstance(TINY["wan"].build(), kind) and isinstance(pipe, own)
        assert kind.__mro__ == own.__mro__ and kind.__call__ is own.__call__
        assert type("Derived", (kind,), {}).__mro__[1:] == own.__mro__
        kind.mark = 1
        assert own.mark == 1
        del kind.mark
        assert not hasattr(own, "mark")
    assert type(pipe) is own


# Forwards that somebody has wrapped


def wrapped(pipe: DiffusionPipeline) -> Callable[[], None]:
    """As DeepCache, T-GATE and users do it, with a signature that says nothing."""
    module = denoiser(pipe)
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    return lambda: setattr(module, "forward", forward)


GUARDS: dict[str, Any] = {"warmup": 1, "final": 0, "max_skips": 1, "min_steps": 1}


METHODS = {"easy": EasyCache(math.inf, **GUARDS), "sea": SeaCache(math.inf, **GUARDS)}


@pytest.mark.part(1)
@pytest.mark.parametrize("name, method", [*((name, "easy") for name in TINY), ("wan", "sea"), ("sd", "sea")])
def test_a_wrapped_forward_changes_nothing_whichever_came_first(name: str, method: str) -> None:
    pipe, steps = TINY[name].build(), 8 if name == "wan_two_experts" else STEPS
    with accel.accelerate(pipe, cache=METHODS[method]) as session:
        expected, timeline = run(pipe, TINY[name], steps=steps), session.report().timeline()
        unwrap = wrapped(pipe)
        assert torch.equal(run(pipe, TINY[name], steps=steps), expected)
        assert session.report().timeline() == timeline and session.report().predicted
    with accel.accelerate(pipe, cache=METHODS[method]) as session:
        assert torch.equal(run(pipe, TINY[name], steps=steps), expected)
        assert session.report().timeline() == timeline
    unwrap()
    with torch.no_grad(), suppress(TypeError):  # what was detached leaves with the first call, whatever comes of it
        denoiser(pipe)()
    assert traces(pipe) == []


class Unnamed(torch.nn.Module):
    def forward(self, picture: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return 0.5 * picture + 0.01 * timestep


def test_a_denoiser_without_known_latents_computes_and_the_report_says_why() -> None:
    pipe, usual = Stateful(), Stateful()
    pipe.components["transformer"] = usual.components["transformer"] = Unnamed()
    for method in (EasyCache(math.inf, **GUARDS), SeaCache(math.inf, **GUARDS), RECIPE.cache):
        with accel.accelerate(pipe, cache=method) as session:
            assert torch.equal(pipe(), usual())
            assert session.report().computed == 8
            assert "no latents were found" in str(session.report().levers[0].reason)
