"""Kernels chosen by measurement: ranked by a clock when asked for, and by nothing but what was written down after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

import accel
from accel.attention import DenseBackend, SlidingTile, measure
from accel.attention.gather import Gather
from accel.attention.kernels import ChosenKernel, attend
from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.planner import HeadPlan
from accel.attention.verdicts import DENSE, Stopwatch, Verdicts, place, timing, where
from tests.accel.witness import pipeline, plain
from tests.attention.masks import activations, inputs, random_plan
from tests.tiny import TINY, run

LAYOUT = TokenLayout(3, 4, 5)
NOW: dict[str, Any] = {"warmup": 0.0, "dense_layers": 0}


@dataclass
class FakeClock:
    """Passes when a fake kernel says so."""

    seconds: float = 0.0

    def __call__(self, device: torch.device) -> float:
        return self.seconds


@dataclass(eq=False)
class Fake:
    """Gathers, and takes as long as it says; what it gives is multiplied."""

    name: str
    clock: FakeClock
    delays: list[float]
    times: float = 1.0
    calls: int = field(default=0)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float, text: torch.Tensor
    ) -> torch.Tensor:
        self.clock.seconds += self.delays[self.calls % len(self.delays)]
        self.calls += 1
        return Gather()(q, k, v, plan, scale, text) * self.times


def one_plan() -> KeyPlan:
    torch.manual_seed(0)
    return random_plan(LAYOUT, 7, "shared")


def asked(kernel: ChosenKernel) -> torch.Tensor:
    plan = one_plan()
    q, k, v = activations(LAYOUT)
    attend(inputs(LAYOUT, q, k, v), [HeadPlan(None, plan)], kernel)
    return q


def test_kernels_with_known_delays_are_ranked_and_a_wrong_one_is_not_among_them() -> None:
    clock = FakeClock()
    kernels = [
        Fake("slow", clock, [3.0]),
        Fake("fickle", clock, [0.5, 0.5, 0.5, 0.5, 40.0]),
        Fake("fastest", clock, [0.25]),
        Fake("wrong", clock, [0.01], times=1.1),
    ]
    watch = Stopwatch(clock)
    with timing(watch):
        q = asked(ChosenKernel(kernels))
        calls = kernels[0].calls
        asked(ChosenKernel(kernels))
        assert kernels[0].calls <= calls + 2, "a place is timed once"
    density = one_plan().density
    assert watch.written() == (f"{where(q, density)}: dense 0 ms, fastest 250 ms, fickle 500 ms, slow 3e+03 ms",)
    chosen = ChosenKernel(kernels, Verdicts(watch.written()))
    asked(chosen)
    assert chosen.name == "fastest"
    asked(unmeasured := ChosenKernel(kernels))
    assert unmeasured.name == "slow", "without a verdict the order is that of the kernels"


def test_what_is_measured_is_for_its_own_place_alone() -> None:
    q = torch.zeros(1, 2, 60, 16)
    verdicts = Verdicts([f"{where(q, 0.3)}: gather 1 ms, dense 2 ms", f"{where(q, 0.6)}: dense 2 ms, gather 3 ms"])
    assert verdicts.order(q, 0.29) == ["gather", DENSE] and verdicts.pays(q, 0.3) is True
    assert verdicts.pays(q, 0.6) is False
    for other in (q.bfloat16(), torch.zeros(1, 2, 61, 16), torch.zeros(1, 2, 60, 8)):
        assert verdicts.order(other, 0.3) is None and not verdicts.about(other)
    assert verdicts.about(q) and verdicts.pays(q, 0.9) is None
    assert torch.__version__ in place(q)


def test_a_run_times_nothing_and_calls_each_kernel_as_often_as_without_verdicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So what choosing costs is a look into a table for each attention."""
    monkeypatch.setattr(Stopwatch, "time", lambda *_: pytest.fail("a run took times"))
    clock, calls = FakeClock(), []
    line = f"{where(activations(LAYOUT)[0], one_plan().density)}: one 1 ms, two 2 ms, dense 3 ms"
    for verdicts in (None, Verdicts([line])):
        kernels = [Fake("one", clock, [1.0]), Fake("two", clock, [1.0])]
        chosen = ChosenKernel(kernels, verdicts)
        for _ in range(4):
            asked(chosen)
        calls.append([kernel.calls for kernel in kernels])
    assert calls[0] == calls[1] and calls[0][1] == 0


def measured(name: str, method: Any, seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The method as it is measured on a tiny pipeline where each kernel takes so long."""

    def time(watch: Stopwatch, q: torch.Tensor, density: float, runs: dict[str, Callable[[], object]]) -> None:
        watch._times[where(q, density)] = {kernel: seconds[kernel] for kernel in runs}

    monkeypatch.setattr(Stopwatch, "time", time)
    return measure(pipeline(name), lambda pipe: run(pipe, TINY[name], steps=2), method)


def outcome(name: str, method: Any) -> tuple[torch.Tensor, Any]:
    with accel.accelerate(pipeline(name), accel.Recipe(attention=method)) as session:
        output = run(pipeline(name), TINY[name])
        assert torch.equal(output, run(pipeline(name), TINY[name]))
    return output, session.report().levers[0]


def test_sparse_attention_acts_where_it_was_faster_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the guesses about short sequences say."""
    method = SlidingTile(0.5, **NOW)
    faster = measured("wan", method, {"gather": 0.001, "dense": 0.002}, monkeypatch)
    slower = measured("wan", method, {"gather": 0.002, "dense": 0.001}, monkeypatch)
    assert replace(faster, measured=()) == method
    assert not outcome("wan", method)[1].engaged, "48 tokens are too short by rule"
    assert outcome("wan", faster)[1].engaged
    output, report = outcome("wan", slower)
    assert not report.engaged and "measured to be faster" in report.reason
    assert torch.equal(output, plain("wan"))


def test_dense_attention_takes_the_back_end_that_was_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    output, report = outcome("flux", DenseBackend())
    assert not report.engaged and "not measured" in report.reason and torch.equal(output, plain("flux"))
    times = {"flash for processors": 0.002, "math": 0.001, "dense": 0.003}
    output, report = outcome("flux", measured("flux", DenseBackend(), times, monkeypatch))
    assert report.engaged and "dense by another back end (kernel math)" in report.reason
    assert (output - plain("flux")).abs().max() < 1e-3


def test_a_recipe_keeps_what_was_measured_with_a_real_clock() -> None:
    method = measure(pipeline("wan"), lambda pipe: run(pipe, TINY["wan"], steps=1), SlidingTile(0.5, **NOW))
    assert len(method.measured) == 1 and "gather" in method.measured[0] and "dense" in method.measured[0]
    recipe = accel.Recipe(attention=method)
    assert accel.Recipe.from_dict(recipe.to_dict()) == recipe
    assert torch.equal(run(pipeline("wan"), TINY["wan"]), plain("wan")), "and the pipeline is as it was"


def test_a_call_without_such_attention_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="No attention was measured"):
        measure(pipeline("wan"), lambda pipe: run(pipe, TINY["wan"], steps=1), SlidingTile(0.5, warmup=1.0))
