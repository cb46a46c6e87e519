"""Weights are shared by any number of threads and tasks: each call gives what it would give alone."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

import accel
from accel import FixedInterval, LastResidual, TeaCache
from tests.accel.residue import traces
from tests.accel.witness import plain
from tests.tiny import TINY, run
from tests.tiny.case import quiet

STEPS = 6
GUARDS: dict[str, Any] = {"predictor": LastResidual(), "warmup": 1, "final": 1, "min_steps": 1}
PRESET = accel.Recipe(cache=FixedInterval(2, warmup=1, min_steps=1))
BOUNDARY = accel.Recipe(cache=FixedInterval(3, **GUARDS))
PROBE = accel.Recipe(cache=TeaCache(1e9, coefficients=(1.0, 0.0), max_skips=2, **GUARDS))
# One recipe for each way in which a lever stands around something: at the denoiser, listening inside of it, around its
# modules, in place of their attention or of their layers, at the scheduler.
RECIPES = {
    "boundary": BOUNDARY,
    "probe": PROBE,
    "modules": accel.Recipe(cache=accel.FORA(2, min_steps=1)),
    "attention": accel.Recipe(attention=accel.Radial()),
    "precision": accel.Recipe(precision=accel.Int8Weights(min_tokens=2)),
    "guidance": accel.Recipe(guidance=accel.GuidanceDelta()),
    "sampler": accel.Recipe(sampler=accel.Euler()),
}
OTHERS = [name for name in RECIPES if name != "boundary"]


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads take turns after every few instructions, so that a fault does not wait for a lucky moment."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def sharing(name: str = "wan", number: int = 2) -> list[DiffusionPipeline]:
    """Pipelines over the same weights, each with a scheduler of its own."""
    first = TINY[name].build()
    others = [
        type(first)(**first.components | {"scheduler": copy.deepcopy(first.scheduler)}) for _ in range(number - 1)
    ]
    for pipe in others:
        pipe.set_progress_bar_config(disable=True)
    return [first, *others]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What the calls return when they begin together, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def started(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(started, call) for call in calls]]


def used(pipe: DiffusionPipeline, number: int = 0, name: str = "wan", **options: Any) -> torch.Tensor:
    return run(pipe, TINY[name], seed=number, prompt=number, steps=STEPS, **options)


# Threads


@pytest.mark.part(1)
@pytest.mark.parametrize("recipe, times", [("boundary", 4), ("boundary", 20), *((recipe, 4) for recipe in OTHERS)])
def test_a_pipeline_that_shares_weights_with_one_at_work_in_another_thread_is_not_touched(
    recipe: str, times: int
) -> None:
    fast, usual = sharing()
    expected = used(usual, 1)
    with accel.accelerate(fast, RECIPES[recipe]) as session:
        alone, report = used(fast), session.report()
        for _ in range(times):
            outputs = at_once(lambda: used(fast), lambda: used(usual, 1))
            assert torch.equal(outputs[0], alone) and torch.equal(outputs[1], expected)
            assert session.report().timeline() == report.timeline()
    assert traces(fast) == traces(usual) == []


@pytest.mark.slow  # with sharing weights: the two after it
@pytest.mark.part(1)
@pytest.mark.parametrize("name, times", [("wan", 5), ("wan", 20), ("flux", 20), ("sd", 4)])
def test_accelerated_pipelines_over_the_same_weights_run_at_once_as_one_after_the_other(name: str, times: int) -> None:
    pipes = sharing(name, 3)
    sessions = [accel.accelerate(pipe, recipe) for pipe, recipe in zip(pipes, (BOUNDARY, PRESET), strict=False)]
    alone = [used(pipe, number, name) for number, pipe in enumerate(pipes)]
    reports = [session.report().timeline() for session in sessions]
    for _ in range(times):
        outputs = at_once(*(lambda number=number: used(pipes[number], number, name) for number in range(3)))
        assert all(map(torch.equal, outputs, alone))
        assert [session.report().timeline() for session in sessions] == reports
    for session in sessions:
        session.restore()
    assert [traces(pipe) for pipe in pipes] == [[], [], []]


@pytest.mark.part(1)
@pytest.mark.parametrize("recipe", RECIPES)
def test_levers_of_one_kind_do_not_mix_what_they_know(recipe: str) -> None:
    pipes = sharing()
    for pipe in pipes:
        accel.accelerate(pipe, RECIPES[recipe])
    alone = [used(pipe, number) for number, pipe in enumerate(pipes)]
    for _ in range(4):
        assert all(map(torch.equal, at_once(lambda: used(pipes[0], 0), lambda: used(pipes[1], 1)), alone))
    for pipe in pipes:
        accel.restore(pipe)
    assert traces(pipes[0]) == traces(pipes[1]) == []


def test_accelerating_and_restoring_do_not_disturb_a_pipeline_at_work() -> None:
    one, other = sharing()
    expected = used(other)

    def come_and_go() -> None:
        for _ in range(30):
            accel.accelerate(one, PROBE).restore()

    for _ in range(2):
        assert torch.equal(at_once(come_and_go, lambda: used(other))[1], expected)
    assert traces(one) == traces(other) == []


# One pipeline


class Stateless:
    """A scheduler that keeps no count of its own, so that two threads may use it at once."""

    config: Mapping[str, Any] = {"prediction_type": "epsilon"}
    timesteps = torch.arange(8.0, 0.0, -1.0)
    sigmas = torch.linspace(1.0, 0.0, 9)

    def set_timesteps(self, number: int) -> None:
        pass

    def step(self, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return sample - 0.1 * output


class Halving(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return 0.5 * hidden_states + 0.01 * timestep


Ask = Callable[..., torch.Tensor]


class Stateful:
    """A pipeline that two threads may call at once. `ask` makes the denoiser calls."""

    config = SimpleNamespace(_name_or_path="")

    def __init__(self, ask: Ask = lambda denoiser, *given: denoiser(*given)) -> None:
        self.components = {"transformer": Halving(), "scheduler": Stateless()}
        self.ask = ask

    def __call__(self, seed: int = 0, between: Callable[[], object] = lambda: None) -> torch.Tensor:
        denoiser, scheduler = self.components.values()
        scheduler.set_timesteps(8)
        latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
        for timestep in scheduler.timesteps:
            latents = scheduler.step(self.ask(denoiser, latents, timestep), timestep, latents)
            between()
        return latents


def test_one_pipeline_called_from_two_threads_gives_each_call_levers_and_a_report_of_its_own() -> None:
    pipe, meet = Stateful(), threading.Barrier(2)
    with accel.accelerate(pipe, BOUNDARY) as session:
        alone = [pipe(0), pipe(1)]
        timeline = session.report().timeline()
        assert not torch.equal(alone[0], Stateful()(0)) and "·" in timeline["pass 1"]
        for _ in range(5):
            outputs = at_once(lambda: pipe(0, meet.wait), lambda: pipe(1, meet.wait))
            assert all(map(torch.equal, outputs, alone))
            assert session.report().timeline() == timeline
        assert torch.equal(pipe(1), alone[1])


class Halfway:
    """Begins a run in another thread as a callback, and keeps it there until the block ends."""

    def __init__(self, call: Callable[..., torch.Tensor]) -> None:
        self._call, self._there, self._on = call, threading.Event(), threading.Event()

    def __enter__(self) -> Halfway:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(self._call, callback_on_step_end=self._wait)
        self._future.add_done_callback(lambda _: self._there.set())  # it may fail on its way
        self._there.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()

    def go_on(self) -> None:
        """The run ends."""
        self._on.set()
        self._pool.shutdown()

    def _wait(self, pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        if step == STEPS // 2:
            self._there.set()
            self._on.wait()
        return {}

    def output(self) -> torch.Tensor:
        return self._future.result()


@pytest.mark.part(3)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["wan", "flux", "sd"])
def test_a_scheduler_in_the_middle_of_a_run_takes_no_second_one_from_another_thread(name: str, recipe: str) -> None:
    """Neither of the same pipeline, nor of another that has the same scheduler. diffusers' own calls would mix."""
    pipe = TINY[name].build()
    other = type(pipe)(**pipe.components)
    other.set_progress_bar_config(disable=True)
    with accel.accelerate(pipe, RECIPES[recipe]) as session, accel.accelerate(other, BOUNDARY):
        alone, timeline = used(pipe, name=name), session.report().timeline()
        with Halfway(lambda **given: used(pipe, name=name, **given)) as halfway:
            for second in (pipe, other):
                with pytest.raises(RuntimeError, match=r"another thread or task.*give each a pipeline of its own"):
                    used(second, 1, name)
            with pytest.raises(RuntimeError, match="another thread"), session.running():
                pass
        assert torch.equal(halfway.output(), alone)
        assert torch.equal(used(pipe, name=name), alone) and session.report().timeline() == timeline
    assert traces(pipe) == traces(other) == []


def over_one_scheduler(name: str, kind: Any = None) -> list[DiffusionPipeline]:
    """Two pipelines that share everything."""
    pipe = TINY[name].build()
    if kind is not None:
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
    return [pipe, quiet(type(pipe)(**pipe.components))]


@pytest.mark.part(3)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["wan", "flux", "sd", "sdxl"])
def test_a_run_whose_scheduler_a_stock_pipeline_uses_in_another_thread_says_so(name: str, recipe: str) -> None:
    """The stock one cannot be refused: diffusers lets it begin."""
    pipe, stock = over_one_scheduler(name)
    with accel.accelerate(pipe, RECIPES[recipe]):
        alone = used(pipe, name=name)
        with Halfway(lambda **given: used(pipe, name=name, **given)) as halfway:
            used(stock, 1, name)
        with pytest.raises(RuntimeError, match=r"in the middle of this run, and both are wrong: give each"):
            halfway.output()
        assert torch.equal(used(pipe, name=name), alone)
    assert traces(pipe) == traces(stock) == []


def test_a_run_that_begins_in_the_middle_of_a_stock_one_says_so_when_that_goes_on() -> None:
    pipe, stock = over_one_scheduler("sd")
    with accel.accelerate(pipe, BOUNDARY), Halfway(lambda **given: used(stock, name="sd", **given)) as halfway:

        def let_it_end(_: Any, step: int, *__: Any) -> dict[str, Any]:
            if step == 2:
                halfway.go_on()
            return {}

        with pytest.raises(RuntimeError, match="both are wrong"):
            used(pipe, 1, "sd", callback_on_step_end=let_it_end)


def test_a_scheduler_that_is_afterwards_what_it_was_may_be_shared() -> None:
    """DDIM keeps no place in its run, so that stock runs of as many steps do not disturb each other either."""
    pipe, stock = over_one_scheduler("sd", DDIMScheduler)
    expected = used(stock, 1, "sd")
    with accel.accelerate(pipe, BOUNDARY) as session:
        alone = used(pipe, name="sd")
        with Halfway(lambda **given: used(pipe, name="sd", **given)) as halfway:
            assert torch.equal(used(stock, 1, "sd"), expected)
        assert torch.equal(halfway.output(), alone)
        assert len(session.report().notes) == 1, "denoiser calls of the other thread"


def test_calls_that_begin_at_once_on_one_pipeline_are_right_or_say_what_to_do() -> None:
    (pipe,) = sharing(number=1)

    def tried(number: int) -> torch.Tensor | str:
        try:
            return used(pipe, number)
        except RuntimeError as error:
            return str(error)

    with accel.accelerate(pipe, PRESET) as session:
        alone, timeline = [used(pipe, 1), used(pipe)], session.report().timeline()
        for _ in range(3):
            outputs = at_once(lambda: tried(1), lambda: tried(0))
            for output, expected in zip(outputs, alone, strict=True):
                assert "give each" in output if isinstance(output, str) else torch.equal(output, expected)
            assert torch.equal(used(pipe), alone[1]) and session.report().timeline() == timeline
    assert traces(pipe) == []
    assert torch.equal(used(pipe), plain("wan", steps=STEPS))


def in_a_thread(denoiser: torch.nn.Module, *given: Any) -> torch.Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(denoiser, *given).result()


def in_a_thread_with_its_context(denoiser: torch.nn.Module, *given: Any) -> torch.Tensor:
    return in_a_thread(contextvars.copy_context().run, denoiser, *given)  # type: ignore[arg-type]


def test_denoiser_calls_from_a_worker_thread_are_computed_and_the_report_says_so() -> None:
    pipe = Stateful(in_a_thread)
    with accel.accelerate(pipe, BOUNDARY) as session:
        assert torch.equal(pipe(), Stateful()())
        assert not session.report().calls
        assert "8 denoiser calls came from another thread" in str(session.report())


def test_a_worker_thread_that_is_given_the_context_belongs_to_the_call() -> None:
    pipe, other = Stateful(in_a_thread_with_its_context), Stateful()
    with accel.accelerate(pipe, BOUNDARY) as session, accel.accelerate(other, BOUNDARY):
        assert torch.equal(pipe(), other())
        assert len(session.report().calls) == 8 and session.report().predicted and not session.report().notes


# Tasks and generators


def loop(pipe: Stateful, session: accel.Session | None, seed: int = 0) -> Iterator[torch.Tensor]:
    """A denoising loop of one's own that pauses after each step."""
    denoiser, scheduler = pipe.components.values()
    with session.running() if session is not None else nullcontext():
        scheduler.set_timesteps(8)
        latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
        for timestep in scheduler.timesteps:
            latents = scheduler.step(denoiser(latents, timestep), timestep, latents)
            yield latents


def last(values: Iterator[torch.Tensor]) -> torch.Tensor:
    return list(values)[-1]


async def taking_turns(values: Iterator[torch.Tensor]) -> torch.Tensor:
    """The last of the values; other tasks go on between them."""
    found = []
    for value in values:
        found.append(value)
        await asyncio.sleep(0)
    return found[-1]


def over(pipe: Stateful) -> Stateful:
    """Another pipeline over the same weights."""
    other = Stateful()
    other.components["transformer"] = pipe.components["transformer"]
    return other


def test_tasks_over_the_same_weights_take_turns_without_mixing() -> None:
    one = Stateful()
    pipes = [one, over(one), over(one)]
    sessions = [accel.accelerate(pipes[0], BOUNDARY), accel.accelerate(pipes[1], PRESET), None]
    alone = [last(loop(pipe, session)) for pipe, session in zip(pipes, sessions, strict=True)]
    assert not torch.equal(alone[0], alone[2])

    async def all_of_them() -> list[torch.Tensor]:
        return await asyncio.gather(*map(taking_turns, map(loop, pipes, sessions)))

    assert all(map(torch.equal, asyncio.run(all_of_them()), alone))
    assert [len(session.report().calls) for session in sessions if session] == [8, 8]


def test_two_tasks_in_one_session_have_levers_of_their_own() -> None:
    pipe = Stateful()

    async def both() -> list[torch.Tensor]:
        return await asyncio.gather(*(taking_turns(loop(pipe, session, seed)) for seed in range(2)))

    with accel.accelerate(pipe, BOUNDARY) as session:
        alone = [last(loop(pipe, session, seed)) for seed in range(2)]
        assert all(map(torch.equal, asyncio.run(both()), alone))


def test_generators_that_take_turns_in_one_thread_keep_apart() -> None:
    """Also when the first to begin is the first to end. (Weights that they share need a context for each.)"""
    pipes = [Stateful(), Stateful()]
    sessions = [accel.accelerate(pipe, BOUNDARY) for pipe in pipes]
    alone = [last(loop(pipe, session)) for pipe, session in zip(pipes, sessions, strict=True)]
    loops = [loop(pipe, session) for pipe, session in zip(pipes, sessions, strict=True)]
    turns = [(next(loops[0]), next(loops[1])) for _ in range(8)][-1]
    assert all(map(torch.equal, turns, alone))
    assert next(loops[0], None) is None
    assert torch.equal(pipes[0](), alone[0])
    assert next(loops[1], None) is None
    assert [len(session.report().calls) for session in sessions] == [8, 8]


def test_generators_over_the_same_weights_are_apart_in_contexts_of_their_own() -> None:
    one = Stateful()
    pipes = [one, over(one)]
    sessions = [accel.accelerate(pipe, BOUNDARY) for pipe in pipes]
    alone = [last(loop(pipe, session, seed)) for seed, (pipe, session) in enumerate(zip(pipes, sessions, strict=True))]
    loops = [loop(pipe, session, seed) for seed, (pipe, session) in enumerate(zip(pipes, sessions, strict=True))]
    contexts = [contextvars.copy_context() for _ in pipes]
    for _ in range(8):
        turns = [context.run(next, turn) for context, turn in zip(contexts, loops, strict=True)]
    assert all(map(torch.equal, turns, alone))


def test_a_generator_closed_in_another_thread_is_over_everywhere() -> None:
    pipe = Stateful()
    usual = pipe()
    with accel.accelerate(pipe, BOUNDARY) as session:
        paused = loop(pipe, session)
        next(paused)
        at_once(paused.close)  # type: ignore[attr-defined]
        expected = pipe()
        assert not torch.equal(expected, usual)
        assert torch.equal(last(loop(pipe, None)), usual)  # nothing is on outside of a call
        assert torch.equal(pipe(), expected)


def test_a_pipeline_called_within_another_ones_call_is_its_own() -> None:
    """By a callback, over the same weights: accelerated there, or not at all."""
    one = Stateful()
    other, inner = over(one), []
    with accel.accelerate(one, BOUNDARY) as session:
        alone, report = one(), session.report()

        def call_the_other() -> None:
            with accel.accelerate(other, PRESET) as within:
                inner.append((other(), within.report().timeline()))

        assert torch.equal(one(between=call_the_other), alone)
        assert session.report().timeline() == report.timeline()
    with accel.accelerate(other, PRESET) as session:
        expected = other()
        assert len(inner) == 8
        assert all(torch.equal(output, expected) and line == session.report().timeline() for output, line in inner)
