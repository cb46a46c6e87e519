"""What every cache promises for every pipeline: nothing changes where nothing is skipped, and a skipped step is the
formula. Checked against an independent record of the denoiser calls and a twin that was never accelerated."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import accel
from accel import (
    Align,
    DBCache,
    DiCache,
    EasyCache,
    Extrapolate,
    FirstBlockCache,
    FixedInterval,
    LastOutput,
    LastResidual,
    MagCache,
    SeaCache,
    TeaCache,
)
from tests.accel.witness import NOISE, VELOCITY, Exchange, denoisers, flat, pipeline, plain, twin, witness
from tests.tiny import TINY, run
from tests.tiny.kinds import KINDS, crossed, kinds_only

every_pipeline = pytest.mark.parametrize("name", TINY)
RATIOS = (1.0, *[0.9] * 7)
FIRST = (1.0, 0.0)  # TeaCache's polynomial that leaves the distance as it is

NEVER: dict[str, accel.caching.CacheMethod] = {
    "fixed": FixedInterval(1, warmup=1, final=0, min_steps=1),
    "easy": EasyCache(0.0, warmup=1, final=0, min_steps=1),
    "sea": SeaCache(0.0, warmup=1, final=0, min_steps=1),
    "tea": TeaCache(0.0, coefficients=FIRST, warmup=1, final=0, min_steps=1),
    "mag": MagCache(0.0, retention=0.0, ratios=RATIOS, warmup=1, final=0, min_steps=1),
    "first block": FirstBlockCache(0.0, warmup=1, final=0, min_steps=1),
    "db": DBCache(0.0, first=1, warmup=1, final=0, min_steps=1),
    "di": DiCache(0.0, retention=0.0, warmup=1, final=0, min_steps=1),
}


def forced(predictor: accel.caching.Predictor) -> dict[str, accel.caching.CacheMethod]:
    """Every method set so loosely that its guards alone decide: two predictions after each computed step."""
    guards: dict[str, Any] = {"predictor": predictor, "warmup": 2, "final": 1, "max_skips": 2, "min_steps": 1}
    return {
        "fixed": FixedInterval(3, **guards),
        "easy": EasyCache(math.inf, **guards),
        "sea": SeaCache(math.inf, **guards),
        "tea": TeaCache(math.inf, coefficients=FIRST, **guards),
        "mag": MagCache(math.inf, most=2, retention=0.0, ratios=RATIOS, **guards),
        "first block": FirstBlockCache(math.inf, **guards),
        "db": DBCache(math.inf, first=1, **guards),
        "di": DiCache(math.inf, retention=0.0, **guards),
    }


FAR = 9.0  # no gap is too long for the whole way
PREDICTORS: dict[str, accel.caching.Predictor] = {
    "output": LastOutput(),
    "residual": LastResidual(),
    "order 1": Extrapolate(1, space="output", corrector=0, reach=FAR),
    "order 2": Extrapolate(2, limit=0.5, space="output", corrector=0, reach=FAR),
    "x0": Extrapolate(1, space="x0", corrector=0, reach=FAR),
    "corrected": Extrapolate(1, space="output", corrector=2, reach=FAR),
    "corrected x0": Extrapolate(0, space="x0", corrector=1),
    "align": Align(1.6),
}

PROBED = (TeaCache, FirstBlockCache, DBCache, DiCache)

# Schedulers whose step adds (next sigma - sigma) times the flow or the noise to the latents.
EULER = ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler", "DDIMScheduler", "CogVideoXDDIMScheduler")

# C: computed, P: predicted; two steps of warm-up, then two predictions at most, and the last step computes.
SCHEDULE = {"transformer": "CCPPCPPC", "unet": "CCPPCPPC"}
SCHEDULES = {
    "wan_two_experts": {"transformer": "CCC", "transformer_2": "CPPCC"},  # the second expert starts at step 3
    "flux_img2img": {"transformer": "CCPPCC"},  # enters at position 2 of 8
    "sd": {"unet": "CCPPCPPCC"},  # PNDM evaluates nine times
}


def schedule(name: str, denoiser: str, method: accel.caching.CacheMethod) -> str:
    expected = SCHEDULES.get(name, SCHEDULE)[denoiser]
    if denoiser == "transformer_2" and (isinstance(method, EasyCache) or method.fresh(method.predictor) == 2):
        return "CCPPC"  # two computed steps of its own for a straight line, or to know how fast the output moves
    if isinstance(method, PROBED) and name in ("sdxl", "sd", "animatediff", "svd"):
        return "C" * len(expected)  # a U-Net has neither a modulated input nor a row of transformer blocks
    return expected


def accelerated(name: str, method: accel.caching.CacheMethod, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipeline(name), accel.Recipe(cache=method)) as session:
        return run(pipeline(name), TINY[name], **options), session.report()


@pytest.mark.part(1)
@every_pipeline
def test_with_every_lever_off_the_output_is_bit_identical(name: str) -> None:
    with accel.accelerate(pipeline(name), accel.Recipe()) as session:
        assert torch.equal(run(pipeline(name), TINY[name]), plain(name))
    assert session.report().computed == len(session.report().calls) > 0


@pytest.mark.part(3)
@crossed("method", NEVER)
def test_never_skipping_is_bit_identical(name: str, method: str) -> None:
    output, report = accelerated(name, NEVER[method])
    assert torch.equal(output, plain(name))
    assert report.predicted == 0
    assert not report.levers[0].engaged and report.levers[0].reason


@pytest.mark.part(2)
@crossed("predictor", PREDICTORS, kinds=("wan", "flux", "mochi", "cogvideox", "sdxl"))
def test_forced_skips_are_the_formula_of_every_predictor(name: str, predictor: str) -> None:
    check_formula(name, forced(PREDICTORS[predictor])["fixed"])


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "mochi", "cogvideox", "sdxl", "svd"])
def test_what_is_extrapolated_by_default_is_x0_unless_it_is_a_flow(name: str) -> None:
    check_formula(name, forced(Extrapolate(1, reach=FAR))["fixed"])


@pytest.mark.part(4)
@crossed("method", ["easy", "sea", "tea", "mag", "first block", "db", "di"], kinds=(*KINDS, "wan_two_experts"))
def test_forced_skips_are_the_formula_in_every_method(name: str, method: str) -> None:
    check_formula(name, forced(LastResidual())[method])


@pytest.mark.part(2)
@pytest.mark.parametrize(("name", "predictor"), [("wan", "order 1"), ("flux", "x0")])
@pytest.mark.parametrize("method", ["easy", "sea", "tea", "mag", "first block", "db", "di"])
def test_any_method_takes_any_predictor(name: str, predictor: str, method: str) -> None:
    check_formula(name, forced(PREDICTORS[predictor])[method])


@pytest.mark.part(2)
@kinds_only()
def test_forced_skips_are_the_formula_without_guidance(name: str) -> None:
    check_formula(name, forced(Extrapolate(1, reach=FAR))["fixed"], guidance=False)


@pytest.mark.part(1)
@kinds_only()
def test_forced_skips_are_the_formula_in_a_batch_of_another_size(name: str) -> None:
    check_formula(name, forced(Extrapolate(1, reach=FAR))["fixed"], batch=2, size="other")


@pytest.mark.part(1)
@kinds_only()
def test_a_batch_of_three_is_three_single_runs(name: str) -> None:
    method = forced(Extrapolate(1, reach=FAR))["fixed"]
    batch, _ = accelerated(name, method, batch=3)
    for sample in range(3):
        alone, _ = accelerated(name, method, seed=sample, prompt=sample)
        assert (batch[sample : sample + 1] - alone).norm() < 1e-4 * alone.norm()


@kinds_only(name for name, tiny in TINY.items() if tiny.guidance == "two calls")
def test_the_unconditional_stream_follows_the_conditional_one(name: str) -> None:
    method = EasyCache(0.3, warmup=1, final=1, min_steps=1)
    _, report = accelerated(name, method, steps=12)
    actions: dict[tuple[str, int], set[str]] = {}
    for call in report.calls:
        actions.setdefault((call.denoiser, call.step), set()).add(call.action)
    assert all(len(found) == 1 for found in actions.values())
    assert len({call.stream for call in report.calls}) == 2
    assert 0 < report.predicted < len(report.calls)


@pytest.mark.part(1)
@kinds_only()
def test_guards_hold_whatever_the_method_thinks(name: str) -> None:
    """Three steps of warm-up, two last steps, three predictions in a row at most."""
    _, report = accelerated(name, FixedInterval(100, warmup=3, final=2, max_skips=3), steps=12)
    for marks in report.timeline().values():
        if name not in SCHEDULES:
            assert marks == "███···█···██"
        assert "····" not in marks
    assert all(call.action == "computed" for call in report.calls if call.step < 3 or call.position >= 10)


@pytest.mark.part(1)
@kinds_only()
def test_runs_under_min_steps_are_left_alone_and_the_report_says_so(name: str) -> None:
    output, report = accelerated(name, FixedInterval(2, min_steps=10), steps=8)
    assert torch.equal(output, plain(name))
    assert report.predicted == 0
    assert "min_steps=10" in report.levers[0].reason


@pytest.mark.part(1)
@kinds_only()
def test_a_session_starts_anew_with_every_call(name: str) -> None:
    """Another prompt, another size, another step count, and the first again: each as in a session of its own."""
    method = EasyCache(0.3, warmup=1, final=1, min_steps=1)
    asked: list[dict[str, Any]] = [{}, {"size": "other"}, {"steps": 5, "prompt": 1}, {}]
    fresh = [accelerated(name, method, **options)[0] for options in asked[:-1]]
    with accel.accelerate(pipeline(name), accel.Recipe(cache=method)):
        again = [run(pipeline(name), TINY[name], **options) for options in asked]
    assert all(torch.equal(one, other) for one, other in zip(again, [*fresh, fresh[0]], strict=True))
    assert torch.equal(run(pipeline(name), TINY[name]), plain(name))


def check_formula(name: str, method: accel.caching.CacheMethod, **options: Any) -> None:
    """Every computed answer is the twin's, every predicted one is the formula over its own stream's past.

    How other updates than Euler steps are made up for is checked in tests/accel/test_schedulers.py.
    """
    pipe = pipeline(name)
    if isinstance(method.predictor, Extrapolate) and not takes_euler_steps(name, method.predictor):
        method = replace(method, predictor=replace(method.predictor, corrector=0))
    with accel.accelerate(pipe, accel.Recipe(cache=method)) as session, witness(pipe) as seen:
        run(pipe, TINY[name], **options)
    for (denoiser, _), exchanges in seen.streams().items():
        past: list[Exchange] = []  # with the answers before any correction
        gap: list[Exchange] = []
        assert len(exchanges) == len(schedule(name, denoiser, method))
        for mark, exchange in zip(schedule(name, denoiser, method), exchanges, strict=True):
            raw = answer_of_twin(name, exchange) if mark == "C" else predicted(name, method, past, exchange)
            known = replace(exchange, answer=raw)
            expected = raw
            if mark == "C" and corrects(name, method, known) and gap:
                expected = [corrected(name, method.predictor, past, gap, known, index) for index in range(len(raw))]
            close = 0.0 if expected is raw and mark == "C" else 2e-4
            for got, wanted in zip(exchange.outputs, expected, strict=True):
                torch.testing.assert_close(got, wanted, rtol=close, atol=close)
            assert type(exchange.answer) is type(exchanges[0].answer)
            past, gap = ([*past, known], []) if mark == "C" else (past, [*gap, known])
    marks = [{"computed": "C", "predicted": "P"}[call.action] for call in session.report().calls]
    assert marks == [schedule(name, one.denoiser, method)[one.round] for one in seen.exchanges]


def answer_of_twin(name: str, exchange: Exchange) -> list[torch.Tensor]:
    with torch.no_grad():
        return flat(denoisers(twin(name))[exchange.denoiser](*exchange.args, **exchange.kwargs))


def predicted(name: str, method: Any, past: list[Exchange], now: Exchange) -> list[torch.Tensor]:
    """What the answer must be, from what was answered before."""
    return [
        formula(name, method.predictor, [exchange.outputs[index] for exchange in past], past, now, index)
        for index in range(len(past[-1].outputs))
    ]


def formula(
    name: str,
    predictor: accel.caching.Predictor,
    answers: list[torch.Tensor],
    past: list[Exchange],
    now: Exchange,
    index: int,
) -> torch.Tensor:
    given = [counterpart(exchange, index, answers[-1]) for exchange in (*past, now)]
    sigmas = [exchange.sigma for exchange in (*past, now)]
    if predictor == LastOutput():
        return answers[-1]
    if predictor == LastResidual():
        return answers[-1] if given[-1] is None else given[-1] + (answers[-1] - given[-2])
    if isinstance(predictor, Align):  # without DiCache's probe, noise level says how far to go
        return aligned(name, predictor, sigmas, answers)
    assert isinstance(predictor, Extrapolate)
    if space_of(name, predictor) == "output" or given[-1] is None:
        return extrapolated(name, predictor, sigmas, answers)
    clean = [x0(name, x, y, s) for x, y, s in zip(given, answers, sigmas, strict=False)]
    return answer_from_x0(name, given[-1], extrapolated(name, predictor, sigmas, clean), sigmas[-1])


def corrects(name: str, method: Any, now: Exchange) -> bool:
    """Whether the scheduler's step is an Euler step in coordinates that the predictor's values add up in."""
    predictor = method.predictor
    if getattr(predictor, "corrector", 0) == 0 or not takes_euler_steps(name, predictor):
        return False
    return now.next_sigma > 0 if space_of(name, predictor) == "x0" else True


def takes_euler_steps(name: str, predictor: Extrapolate) -> bool:
    if name in VELOCITY and space_of(name, predictor) == "output":
        return False  # their weights are not the differences of noise levels
    scheduler = pipeline(name).scheduler
    clips = scheduler.config.get("clip_sample") and name != "cogvideox"  # whose scheduler ignores the setting
    return type(scheduler).__name__ in EULER and not clips


def space_of(name: str, predictor: Extrapolate) -> str:
    return predictor.space if predictor.space != "auto" else "x0" if name in NOISE | VELOCITY else "output"


def corrected(
    name: str, predictor: Extrapolate, past: list[Exchange], gap: list[Exchange], now: Exchange, index: int
) -> torch.Tensor:
    """The answer that makes this step end where it would have, had the gap been answered by the polynomial through the
    computed answers around it."""
    clean = space_of(name, predictor) == "x0"

    def value(exchange: Exchange) -> torch.Tensor:
        output = exchange.outputs[index]
        given = counterpart(exchange, index, output)
        return output if not clean or given is None else x0(name, given, output, exchange.sigma)

    def weight(exchange: Exchange) -> float:
        if clean:
            return 1 / exchange.next_sigma - 1 / exchange.sigma
        return exchange.next_sigma - exchange.sigma

    def time(exchange: Exchange) -> float:
        return exchange.sigma / (1 + exchange.sigma) if name in NOISE | VELOCITY else exchange.sigma

    nodes = [*past, now][-predictor.corrector - 1 :]
    times, values = [time(node) for node in nodes], [value(node) for node in nodes]

    def right_one(step: Exchange) -> torch.Tensor:
        """On the curve as far as a line through the two before explains the new one, else on the chord."""
        curve = polynomial(times, values, time(step))
        if len(nodes) < 3:
            return curve
        chord = polynomial(times[-2:], values[-2:], time(step))
        _, trusts = hindsight(polynomial(times[-3:-1], values[-3:-1], times[-1]), values[-2], values[-1])
        return chord + per_sample(trusts, chord) * (curve - chord)

    wrong = sum((weight(step) * (value(step) - right_one(step)) for step in gap), start=0.0)
    right = value(now) - wrong / weight(now)
    given = counterpart(now, index, right)
    return right if not clean or given is None else answer_from_x0(name, given, right, now.sigma)


def counterpart(exchange: Exchange, index: int, answer: torch.Tensor) -> torch.Tensor | None:
    """The part of the input that the answer is about: image-to-video appends channels; PixArt answers more than it
    is given."""
    if index >= len(exchange.latents):
        return None
    latents = exchange.latents[index]
    if latents.shape[1] < answer.shape[1]:
        return None
    return latents[tuple(slice(size) for size in answer.shape)]


def extrapolated(name: str, predictor: Extrapolate, sigmas: list[float], values: list[torch.Tensor]) -> torch.Tensor:
    """From the last point towards where the polynomial through the last ones is: as far as the one before would have
    had to go to come nearest to the last point, times the trust in it; only a share where it will be corrected.
    """
    times = [s / (1 + s) for s in sigmas] if name in NOISE | VELOCITY else sigmas
    order, most = predictor.order, 1.0
    if predictor.corrector and takes_euler_steps(name, predictor):
        most = predictor.damping
    far = continued(predictor, times, values) - values[-1]
    if len(values) < order + 2 or not order:
        return values[-1] + most * far
    slopes, trusts = hindsight(continued(predictor, times[:-1], values[:-1]), values[-2], values[-1])
    shares = [min(slope * trust, most) for slope, trust in zip(slopes, trusts, strict=True)]
    return values[-1] + per_sample(shares, far) * far


def hindsight(forecast: torch.Tensor, last: torch.Tensor, now: torch.Tensor) -> tuple[list[float], list[float]]:
    """Of each sample: how far along the forecast would have been nearest, and twice the R² of that, at most 1."""
    slopes, trusts = [], []
    for a, b in zip(forecast - last, now - last, strict=True):
        along = max(float((a * b).sum()), 0.0)
        slopes.append(along / max(float((a * a).sum()), 1e-30))
        trusts.append(min(2 * slopes[-1] * along / max(float((b * b).sum()), 1e-30), 1.0))
    return slopes, trusts


def per_sample(numbers: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers).view(-1, *[1] * (like.ndim - 1))


def continued(predictor: Extrapolate, times: list[float], values: list[torch.Tensor]) -> torch.Tensor:
    """The line through the last two points, plus the limited difference to the parabola through the last three."""
    if predictor.order == 0:
        return values[-1]
    line = polynomial(times[-3:-1], values[-2:], times[-1])
    if predictor.order == 1 or len(values) < 3:
        return line
    bend = polynomial(times[-4:-1], values[-3:], times[-1]) - line
    slope, size = ((part.flatten(1)).norm(dim=1) for part in (line - values[-1], bend))
    share = (predictor.limit * slope / size.clamp_min(1e-30)).clamp_max(1.0)
    return line + share.view(-1, *[1] * (bend.ndim - 1)) * bend


def aligned(name: str, predictor: Align, sigmas: list[float], values: list[torch.Tensor]) -> torch.Tensor:
    """Along the line from the last but one answer through the last, between one and `limit` times its length."""
    if len(values) == 1:
        return values[-1]
    before, last, now = ([s / (1 + s) for s in sigmas] if name in NOISE | VELOCITY else sigmas)[-3:]
    if before == last:
        return values[-1]
    gamma = min(max((now - before) / (last - before), 1.0), predictor.limit)
    return values[-2] + gamma * (values[-1] - values[-2])


def polynomial(times: list[float], values: list[torch.Tensor], now: float) -> torch.Tensor:
    """Lagrange's form."""
    times = times[-len(values) :]
    if len(set(times)) < len(times):  # PNDM evaluates twice at one time: nothing to extrapolate from
        return values[-1]
    total = torch.zeros_like(values[0])
    for i, value in enumerate(values):
        others = [time for j, time in enumerate(times) if j != i]
        total += math.prod((now - time) / (times[i] - time) for time in others) * value
    return total


def x0(name: str, x: torch.Tensor | None, y: torch.Tensor, sigma: float) -> torch.Tensor:
    assert x is not None
    a, b = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    if name in NOISE:
        return (x - b * y) / a
    if name in VELOCITY:
        return a * x - b * y
    return x - inversion(name) * sigma * y


def answer_from_x0(name: str, x: torch.Tensor, clean: torch.Tensor, sigma: float) -> torch.Tensor:
    a, b = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    if name in NOISE:
        return (x - a * clean) / b
    if name in VELOCITY:
        return (a * x - clean) / b
    return (x - clean) / (inversion(name) * sigma)


def inversion(name: str) -> int:
    """Mochi and Z-Image answer the flow from noise to data. Z-Image's pipeline negates it."""
    return -1 if name in ("mochi", "z_image") else 1
