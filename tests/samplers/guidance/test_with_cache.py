"""Guidance in front of a cache: each does what it would do alone, and nothing that guidance makes up is remembered."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import accel
from accel import (
    FORA,
    PAB,
    AdaptiveGuidance,
    DeepCache,
    EasyCache,
    Extrapolate,
    FirstBlockCache,
    FixedInterval,
    GuidanceDelta,
    GuidanceInterval,
    LastOutput,
    OptimalSchedule,
    SeaCache,
    TeaCache,
)
from tests.accel.test_contract import answer_of_twin, corrected, corrects, predicted
from tests.accel.witness import Exchange, pipeline, plain, witness
from tests.samplers.guidance.reference import FIRST_HALF
from tests.tiny import TINY, run
from tests.tiny.kinds import crossed

GUIDED = [name for name, tiny in TINY.items() if tiny.guidance in ("two calls", "batched")]
TWO_CALLS = ["wan", "qwen_image", "flux_true_guidance"]
BATCHED = ["sdxl", "animatediff", "ltx", "cogvideox", "sd3_controlnet", "z_image"]
TOLD = [name for name in BATCHED if name != "cogvideox"]  # says of its first step that it is guided

HALF = GuidanceInterval(low=0.5)
LATE = GuidanceInterval(low=0.0, high=0.5)
EVERY_OTHER = FixedInterval(2, predictor=LastOutput(), warmup=1, final=0, min_steps=1)
LOOSE: dict[str, Any] = {"warmup": 1, "final": 1, "min_steps": 1}
CACHES: dict[str, Any] = {
    "interval": FixedInterval(3, **LOOSE),
    "planned": OptimalSchedule(0.5, min_steps=1),
    "easy": EasyCache(math.inf, **LOOSE),
    "sea": SeaCache(math.inf, **LOOSE),
    "tea": TeaCache(math.inf, coefficients=(1.0, 0.0), **LOOSE),
    "first block": FirstBlockCache(math.inf, **LOOSE),
    "fora": FORA(2),
    "pab": PAB(),
    "deep": DeepCache(2),
}


def composed(name: str, cache: Any, guidance: Any, **options: Any) -> tuple[torch.Tensor, accel.Report, list[Exchange]]:
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(cache=cache, guidance=guidance)) as session, witness(pipe) as seen:
        return run(pipe, TINY[name], **options), session.report(), seen.exchanges


@pytest.mark.part(2)
@pytest.mark.parametrize("name", TWO_CALLS)
def test_two_calls_composed_by_hand(name: str) -> None:
    """Every other step is the last output of its own stream; the last four unconditional outputs are conditional."""
    _, report, exchanges = composed(name, EVERY_OTHER, HALF)
    assert list(report.timeline().values()) == ["█·█·█·█·", "█·█·○○○○"]
    last: dict[int, torch.Tensor] = {}
    for exchange in exchanges:
        if exchange.stream == 1 and exchange.round >= 4:
            expected = last[0]
        elif exchange.round % 2 == 0:
            expected = answer_of_twin(name, exchange)[0]
        else:
            expected = last[exchange.stream]
        last[exchange.stream] = expected
        assert torch.equal(exchange.outputs[0], expected)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", BATCHED)
def test_one_batch_composed_by_hand(name: str) -> None:
    """The whole batch is one stream of the cache and the conditional half alone another, which begins anew."""
    _, report, exchanges = composed(name, EVERY_OTHER, HALF)
    assert list(report.timeline().values()) == ["█·█·◐·◐·"]
    samples = len(exchanges[0].outputs) // 2
    halves: list[torch.Tensor] = []
    for exchange in exchanges:
        whole = exchange.outputs if len(exchange.outputs) > 1 else list(exchange.outputs[0].chunk(2))
        conditional, other = (0, samples or 1) if name in FIRST_HALF else (-1, 0)
        if exchange.round % 2 == 0:
            answers = answer_of_twin(name, exchange)
            halves = answers if len(answers) > 1 else list(answers[0].chunk(2))
        guided = exchange.round < 4
        close = 0.0 if guided else 1e-4  # another batch size
        torch.testing.assert_close(whole[conditional], halves[conditional], rtol=close, atol=close)
        torch.testing.assert_close(whole[other], halves[other if guided else conditional], rtol=close, atol=close)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", TOLD)
def test_each_half_of_a_batch_is_answered_from_its_own_past(name: str) -> None:
    """The difference is measured at every third step, where the cache computes both halves in one launch."""
    guidance = GuidanceDelta(math.inf, every=3, corrector=0)
    _, report, exchanges = composed(name, EVERY_OTHER, guidance)
    assert list(report.timeline().values()) == ["█◐·█·◐·█"]
    assert report.launches == report.computed
    last: torch.Tensor | None = None
    for exchange, mark in zip(exchanges, "█◐·█·◐·█", strict=True):
        whole = exchange.outputs if len(exchange.outputs) > 1 else list(exchange.outputs[0].chunk(2))
        conditional = 0 if name in FIRST_HALF else -1
        if mark != "·":
            answers = answer_of_twin(name, exchange)
            last = (answers if len(answers) > 1 else list(answers[0].chunk(2)))[conditional]
        torch.testing.assert_close(whole[conditional], last, rtol=1e-4, atol=1e-4)


@pytest.mark.part(2)
@pytest.mark.parametrize("name", ["qwen_image", "flux_true_guidance", "wan"])
@pytest.mark.parametrize("guidance", [HALF, LATE], ids=["ends", "begins late"])
def test_forecasts_and_corrections_stay_those_of_each_stream(name: str, guidance: Any) -> None:
    """Every answer that came from the cache is the formula over what its own stream computed, whatever was left out."""
    method = FixedInterval(
        3, predictor=Extrapolate(1, space="output", reach=9.0), warmup=2, final=1, max_skips=2, min_steps=1
    )
    _, _, exchanges = composed(name, method, guidance)
    marks = {0: "CCPPCPPC", 1: "CCPPDDDD" if guidance is HALF else "DDDDCCPC"}  # a line needs two outputs
    answered: dict[int, torch.Tensor] = {}
    moved: dict[int, torch.Tensor] = {}  # by what a correction changed the conditional output
    for stream, line in marks.items():
        past: list[Exchange] = []
        gap: list[Exchange] = []
        for mark, exchange in zip(line, (one for one in exchanges if one.stream == stream), strict=True):
            if stream == 0:
                answered[exchange.round] = exchange.outputs[0]
            if mark == "D":
                assert torch.equal(exchange.outputs[0], answered[exchange.round])
                continue
            raw = answer_of_twin(name, exchange) if mark == "C" else predicted(name, method, past, exchange)
            known = replace(exchange, answer=raw)
            expected = raw
            if mark == "C" and gap and corrects(name, method, known):
                expected = [corrected(name, method.predictor, past, gap, known, 0)]
            if stream == 0:
                moved[exchange.round] = expected[0] - raw[0]
            elif guidance is LATE and exchange.round == 4:
                # The answers before it were the conditional forecasts, so their correction is its own as well.
                expected = [raw[0] + moved[4]]
            torch.testing.assert_close(exchange.outputs[0], expected[0], rtol=2e-4, atol=2e-4)
            past, gap = ([*past, known], []) if mark == "C" else (past, [*gap, known])
        assert len(past) == line.count("C")


@pytest.mark.part(2)
@pytest.mark.parametrize("name", TWO_CALLS)
def test_a_difference_is_measured_only_where_both_passes_are_evaluated(name: str) -> None:
    guidance = GuidanceDelta(growth=1.0, every=1)
    _, report, _ = composed(name, FixedInterval(2, warmup=2, final=1, min_steps=1), guidance)
    cond, uncond = report.timeline().values()
    assert cond == "██·█·█·█" and uncond == cond.replace("·", "○")


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["qwen_image", "flux_true_guidance"])
def test_corrections_of_both_add_up(name: str) -> None:
    """What is measured is what the denoiser answered; both outputs are moved by the cache's correction, because both
    were forecast in between, and the unconditional one by that of the difference as well."""
    cache = FixedInterval(3, predictor=Extrapolate(1, space="output"), warmup=2, final=1, max_skips=2, min_steps=1)
    _, report, exchanges = composed(name, cache, GuidanceDelta(growth=1.0))
    assert list(report.timeline().values()) == ["██··█··█", "██○○█○○█"]
    cond, uncond = ([one for one in exchanges if one.stream == stream] for stream in (0, 1))
    known: list[tuple[float, torch.Tensor]] = []
    gap: list[tuple[float, float, torch.Tensor]] = []
    for step, (one, other) in enumerate(zip(cond, uncond, strict=True)):
        conditional, weight = one.outputs[0], one.next_sigma - one.sigma
        if step not in (0, 1, 4, 7):
            gap.append((one.sigma, weight, known[-1][1]))
            torch.testing.assert_close(other.outputs[0], conditional + known[-1][1])
            continue
        known.append((one.sigma, answer_of_twin(name, other)[0] - answer_of_twin(name, one)[0]))
        expected = conditional + known[-1][1]
        for sigma, share, used in gap:
            (t0, d0), (t1, d1) = known[-2:]
            expected = expected + share * (d1 + (d1 - d0) * (sigma - t1) / (t1 - t0) - used) / weight
        gap.clear()
        torch.testing.assert_close(other.outputs[0], expected, rtol=1e-4, atol=1e-4)


def test_agreement_counts_evaluated_steps_only() -> None:
    guidance = AdaptiveGuidance(-1.0, start=0.25, patience=2, rest="conditional")
    _, report, _ = composed("wan", FixedInterval(2, warmup=2, final=1, min_steps=1), guidance)
    assert report.timeline() == {"cond": "██·█·█·█", "uncond": "██·█·█○○"}


@pytest.mark.part(1)
@crossed("cache", CACHES, GUIDED, kinds=("wan", "ltx"))
def test_batches_that_shrink_and_grow_break_no_cache(name: str, cache: str) -> None:
    """The difference is measured at every third step, so that the batch changes its size again and again."""
    guidance = GuidanceDelta(math.inf, every=3, start=0.2)
    with accel.accelerate(pipeline(name), accel.Recipe(cache=CACHES[cache], guidance=guidance)) as session:
        first = run(pipeline(name), TINY[name], batch=2)
        report = session.report().levers[0]
        # Without a history of evaluated pairs, which a cache this loose may never give, there is nothing to carry.
        assert report.engaged or "no difference yet" in report.reason
        assert torch.equal(run(pipeline(name), TINY[name], batch=2), first)
    assert torch.isfinite(first).all()
    assert torch.equal(run(pipeline(name), TINY[name]), plain(name))


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl", "ltx"])
def test_nothing_of_guidance_reaches_a_cache_that_never_skips(name: str) -> None:
    """With a cache that only records, the composition is guidance alone."""
    never = FixedInterval(1, warmup=1, final=0, min_steps=1)
    with accel.accelerate(pipeline(name), accel.Recipe(guidance=GuidanceDelta(math.inf, every=3))):
        alone = run(pipeline(name), TINY[name])
    assert torch.equal(composed(name, never, GuidanceDelta(math.inf, every=3))[0], alone)
