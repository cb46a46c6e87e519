"""The guidance techniques by themselves: decisions on numbers, formulas written out anew, calibration, parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

import accel
from accel import AdaptiveGuidance, GuidanceDelta, GuidanceInterval, LinearAG
from accel.clock import StepContext
from accel.patch import session_of
from accel.samplers import calibrate_linear
from accel.samplers.guidance.adaptive import agreement
from accel.samplers.guidance.delta import split_frequencies
from accel.samplers.guidance.policy import ConditionalPass
from tests.accel.witness import NOISE, pipeline, plain
from tests.samplers.guidance.reference import by_rule
from tests.tiny import TINY, run
from tests.tiny.kinds import crossed

EULER = {"FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler", "DDIMScheduler"}


def accelerated(name: str, method: Any, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipeline(name), accel.Recipe(guidance=method)) as session:
        return run(pipeline(name), TINY[name], **options), session.report()


def test_guidance_ends_by_the_cosine_and_not_too_early() -> None:
    method = AdaptiveGuidance(0.99, start=0.3)
    assert [method.agrees(0.995, step, 10) for step in range(5)] == [False, False, False, True, True]
    assert not method.agrees(0.98, 9, 10)


def test_the_interval_is_open_below_and_closed_above() -> None:
    by_sigma = GuidanceInterval(0.28, 5.42, unit="sigma")
    found = [by_sigma.guides(sigma, 0, 10) for sigma in (14.6, 5.42, 1.0, 0.28, 0.1)]
    assert found == [False, True, True, False, False]
    by_fraction = GuidanceInterval(0.5, 0.75)
    assert [by_fraction.guides(0.0, step, 8) for step in range(8)] == [False, False, True, True, *[False] * 4]


def test_the_difference_is_measured_when_the_signal_has_grown() -> None:
    method = GuidanceDelta(growth=2.0, every=5)
    assert not method.measures(0.19, 0.1, since=1, position=3, total=50)
    assert method.measures(0.2, 0.1, since=1, position=3, total=50)
    assert method.measures(0.1, 0.0, since=1, position=1, total=50)  # a flow's first step is pure noise
    assert method.measures(0.11, 0.1, since=5, position=9, total=50)
    assert GuidanceDelta(start=0.1).measures(0.1, 0.1, since=1, position=4, total=50)


@pytest.mark.parametrize("kind", ["flow", "inverted_flow", "epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("sigma", [0.05, 0.9])
def test_agreement_is_the_cosine_of_the_clean_estimates(kind: str, sigma: float) -> None:
    """Outputs made from known clean estimates give their cosine back, sample by sample."""
    x, clean, other = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double().unbind(0)
    a, b = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    output: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "flow": lambda x0: (x - x0) / sigma,
        "inverted_flow": lambda x0: (x0 - x) / sigma,
        "epsilon": lambda x0: (x - a * x0) / b,
        "v_prediction": lambda x0: (a * x - x0) / b,
        "sample": lambda x0: x0,
    }
    context = StepContext(1, 0, 0, 10, sigma)
    expected = torch.nn.functional.cosine_similarity(clean.flatten(1), other.flatten(1)).tolist()
    got = agreement(ConditionalPass(context, [x], [output[kind](clean)]), [output[kind](other)], kind)
    assert got == pytest.approx(expected, abs=1e-4)
    apart = ConditionalPass(context, list(x), list(output[kind](clean)), listed=True)
    assert agreement(apart, list(output[kind](other)), kind) == pytest.approx(expected, abs=1e-4)


def test_channels_that_are_no_part_of_the_picture_do_not_count() -> None:
    x, c, u = torch.randn(3, 2, 4, 8, 8).unbind(0)
    context, more = StepContext(1, 0, 0, 10, 0.5), torch.randn(2, 4, 8, 8)
    expected = agreement(ConditionalPass(context, [x], [c]), [u], "flow")
    learned = ConditionalPass(context, [x], [torch.cat([c, more], 1)])
    appended = ConditionalPass(context, [torch.cat([x, more], 1)], [c])
    assert agreement(learned, [torch.cat([u, -more], 1)], "flow") == expected
    assert agreement(appended, [u], "flow") == expected


def test_the_split_is_a_partition_of_the_spectrum() -> None:
    delta = torch.randn(2, 3, 10, 12)
    low, high = split_frequencies(delta, 1.0, 0.0), split_frequencies(delta, 0.0, 1.0)
    torch.testing.assert_close(low + high, delta)
    torch.testing.assert_close(split_frequencies(delta, 1.1, 1.0), 1.1 * low + high)
    flat = torch.ones(1, 1, 10, 12)
    torch.testing.assert_close(split_frequencies(flat, 3.0, 0.0), 3.0 * flat)
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(5, 6)[None, None]
    torch.testing.assert_close(split_frequencies(checks, 0.0, 3.0), 3.0 * checks)


CARRYING = ["wan_two_experts", "qwen_image", "ltx", "mochi", "sdxl", "animatediff", "z_image", "svd"]


@pytest.mark.part(1)
@crossed("orders", [(0, 0), (0, 1), (1, 0), (1, 1)], CARRYING, kinds=["wan", "ltx"])
def test_the_carried_difference_is_the_formula(name: str, orders: tuple[int, int]) -> None:
    """Two steps are carried after each measured one, and what was wrong with them is made up for in the next."""
    order, corrector = orders
    method = GuidanceDelta(math.inf, every=3, start=0.3, order=order, corrector=corrector)
    output, report = accelerated(name, method)
    expected = by_rule(name, carried(name, order, corrector))
    assert (output - expected).norm() < 1e-4 * expected.norm()
    assert report.levers[0].extra_bytes > 0


def carried(name: str, order: int, corrector: int) -> Any:
    scheduler = pipeline(name).scheduler
    corrects = corrector and type(scheduler).__name__ in EULER
    levels = sigmas(scheduler)  # the accelerated run came first
    weights = added(levels, name == "svd")
    known: list[tuple[float, torch.Tensor]] = []
    gap: list[tuple[float, float, torch.Tensor]] = []

    def line(nodes: list[tuple[float, torch.Tensor]], now: float) -> torch.Tensor:
        if len(nodes) == 1:
            return nodes[0][1]
        (t0, d0), (t1, d1) = nodes
        return d1 + (d1 - d0) * (now - t1) / (t1 - t0)

    def rule(step: int, sigma: float, x: Any, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor | None:
        time = sigma / (1 + sigma) if name in NOISE | {"svd"} else sigma
        weight = weights[step]
        if name == "wan_two_experts" and step == 3:  # the other expert knows nothing yet
            known.clear(), gap.clear()
        begun = 3 if name == "wan_two_experts" and step >= 3 else 0
        measured = step < 3 or step == begun or (step - max(begun, 2)) % 3 == 0
        if not measured:
            delta = line(known[-1 - order :], time)
            gap.append((time, weight, delta))
            return c + delta
        known.append((time, u - c))
        if not (gap and corrects):
            gap.clear()
            return None
        wrong = sum((w * (line(known[-2:], t) - used) for t, w, used in gap), start=torch.zeros_like(u))
        gap.clear()
        return u + wrong / weight

    return rule


def added(levels: list[float], velocity: bool) -> list[float]:
    """What one unit of output adds in each Euler step, in coordinates in which steps add up: with v-predictions a step
    also changes what was there, x' = x (1 + h s / (s^2 + 1)) + h v / sqrt(s^2 + 1)."""
    if not velocity:
        return [after - before for before, after in pairwise(levels)]
    kept, found = 1.0, []
    for before, after in pairwise(levels):
        step = after - before
        kept *= 1 + step * before / (before**2 + 1)
        found.append(step / math.sqrt(before**2 + 1) / kept)
    return found


def sigmas(scheduler: Any) -> list[float]:
    """The noise levels of the scheduler's last run, and its end."""
    if getattr(scheduler, "sigmas", None) is not None:
        found = [*scheduler.sigmas.tolist(), 0.0]
        return [1 - sigma for sigma in found] if scheduler.config.get("invert_sigmas") else found
    alphas = [*(scheduler.alphas_cumprod[int(t)] for t in scheduler.timesteps), scheduler.final_alpha_cumprod]
    return [math.sqrt((1 - float(alpha)) / max(float(alpha), 1e-12)) for alpha in alphas]


def test_agreement_hands_over_to_the_carried_difference() -> None:
    method = AdaptiveGuidance(-1.0, start=0.5, delta=GuidanceDelta(math.inf, every=3))
    _, report = accelerated("wan", method)
    assert report.timeline()["uncond"] == "█████○○█"
    never, _ = accelerated("wan", AdaptiveGuidance(-1.0, start=0.5, delta=GuidanceDelta(growth=1.0)))
    assert torch.equal(never, plain("wan"))


def test_patience_waits_for_agreement_in_a_row() -> None:
    one = accelerated("wan", AdaptiveGuidance(-1.0, start=0.25, rest="conditional"))[1]
    three = accelerated("wan", AdaptiveGuidance(-1.0, start=0.25, patience=3, rest="conditional"))[1]
    assert one.timeline()["uncond"] == "███○○○○○"
    assert three.timeline()["uncond"] == "█████○○○"


def test_a_linear_fit_is_the_ratio_where_the_difference_keeps_its_direction() -> None:
    """Two Gaussians of one variance: the difference of their scores is a number times a constant vector."""
    from accel.samplers.trained.linear_fit import least_squares

    direction, c = torch.randn(2, 16, 16), torch.randn(2, 2, 16, 16)
    kappa = [0.9, 0.7, 0.4]
    parts = [[kappa[1] * direction, kappa[0] * direction, c[1] - c[0]]]
    row = least_squares(parts, [kappa[2] * direction])
    estimate = sum(weight * part for weight, part in zip(row, parts[0], strict=True))
    torch.testing.assert_close(estimate, kappa[2] * direction, rtol=1e-4, atol=1e-4)
    assert abs(row[2]) < 1e-4


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl", "z_image"])
def test_calibration_fits_each_step_and_the_run_is_the_fitted_formula(name: str) -> None:
    pipe = pipeline(name)
    linear = calibrate_linear(pipe, ["ignored"], every=2, start=0.4, generate=lambda pipe, _: run(pipe, TINY[name]))
    assert [bool(row) for row in linear.rows] == [False] * 4 + [True, False, True, False]
    output, report = accelerated(name, linear)
    past: list[tuple[torch.Tensor, torch.Tensor]] = []

    def rule(step: int, sigma: float, x: Any, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor | None:
        delta = u - c
        if linear.rows[step]:
            a, b, e = linear.rows[step]
            delta = a * past[-1][0] + b * past[-2][0] + e * (c - past[-1][1])
        past.append((delta, c))
        return c + delta if linear.rows[step] else None

    expected = by_rule(name, rule)
    assert (output - expected).norm() < 1e-4 * expected.norm()
    assert "2 of 8" in report.levers[0].reason
    assert (output - plain(name)).norm() < (accelerated(name, held(linear))[0] - plain(name)).norm()


def held(linear: LinearAG) -> LinearAG:
    return LinearAG(linear.sigmas, tuple((1.0, 0.0, 0.0) if row else () for row in linear.rows))


def test_a_calibration_for_other_noise_levels_is_left_alone_and_the_report_says_so() -> None:
    linear = calibrate_linear(
        pipeline("wan"), ["ignored"], every=2, generate=lambda pipe, _: run(pipe, TINY["wan"], steps=10)
    )
    output, report = accelerated("wan", linear)
    assert torch.equal(output, plain("wan"))
    assert "other noise levels" in report.levers[0].reason


def test_calibration_puts_the_attached_session_back() -> None:
    pipe = pipeline("wan")
    recipe = accel.Recipe(guidance=GuidanceInterval())
    with accel.accelerate(pipe, recipe):
        calibrate_linear(pipe, ["ignored"], generate=lambda pipe, _: run(pipe, TINY["wan"]))
        run(pipe, TINY["wan"])
        assert session_of(pipe).recipe == recipe
        accel.restore(pipe)
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompts": "one"}, "list of at least one prompt"),
        ({"prompts": []}, "list of at least one prompt"),
        ({"prompts": ["one"], "every": 1}, "every of at least 2"),
        ({"prompts": ["one"], "generate": lambda pipe, _: run(pipe, TINY["wan"], guidance=False)}, "nothing to fit"),
    ],
)
def test_calibration_says_what_is_wrong(asked: dict[str, Any], words: str) -> None:
    prompts = asked.pop("prompts")
    with pytest.raises(ValueError, match=words):
        calibrate_linear(pipeline("wan"), prompts, **asked)


@pytest.mark.parametrize(
    "method",
    [
        AdaptiveGuidance(0.97, start=0.1, patience=2, delta=GuidanceDelta(every=4)),
        AdaptiveGuidance(rest="conditional"),
        GuidanceInterval(0.28, 5.42, unit="sigma"),
        GuidanceInterval(),
        GuidanceDelta(growth=math.inf, every=5, low=1.1, high=1.1),
        LinearAG((1.0, 0.5, 0.0), ((), (0.9, 0.1, 0.0))),
    ],
)
def test_recipes_keep_guidance_methods(method: Any) -> None:
    recipe = accel.Recipe(guidance=method)
    assert accel.Recipe.from_dict(json.loads(recipe.to_json())) == recipe


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptiveGuidance(start=1.5),
        lambda: AdaptiveGuidance(rest="nothing"),
        lambda: GuidanceInterval(low=-0.1),
        lambda: GuidanceInterval(unit="steps"),
        lambda: GuidanceDelta(growth=0.9),
        lambda: GuidanceDelta(order=3),
        lambda: LinearAG(),
        lambda: LinearAG((1.0, 0.5), ((1.0,),)),
        lambda: LinearAG((1.0,), ((math.nan, 0.0, 0.0),)),
    ],
)
def test_wrong_parameters_are_refused_in_one_sentence(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError) as refused:
        make()
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
