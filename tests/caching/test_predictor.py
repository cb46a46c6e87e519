"""Predictors against polynomials, and the conversions between outputs and clean estimates against their inverses."""

import math

import pytest
import torch

from accel.caching import Extrapolate, LastOutput, LastResidual
from accel.call import DenoiserCall
from accel.clock import StepContext
from accel.parametrization import clean_from_output, extrapolation_weights, output_from_clean


def call_at(sigma, latents):
    context = StepContext(run=1, step=5, position=5, total=10, sigma=sigma)
    return DenoiserCall("transformer", "cond", True, context, (), {}, [latents], torch.nn.Identity(), {})


def predicted(predictor, sigmas, outputs, now, latents=None, kind="flow"):
    latents = torch.zeros(2, 3, 4) if latents is None else latents
    history = [predictor.remember(call_at(s, latents), [o], kind) for s, o in zip(sigmas, outputs, strict=True)][
        -predictor.depth :
    ]
    return predictor.predict(call_at(now, latents), history, kind)[0]


def polynomial(*coefficients):
    """A tensor-valued polynomial in sigma with a different curve in every element."""
    generator = torch.Generator().manual_seed(len(coefficients))
    planes = [c * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for c in coefficients]
    return lambda sigma: sum(plane * sigma**power for power, plane in enumerate(planes))


def test_last_output_repeats():
    f = polynomial(1.0, 2.0)
    torch.testing.assert_close(predicted(LastOutput(), [0.9, 0.8], [f(0.9), f(0.8)], 0.5), f(0.8))


def test_last_residual_follows_the_input():
    before, now = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    memory = LastResidual().remember(call_at(0.9, before), [before + 7], "flow")
    torch.testing.assert_close(LastResidual().predict(call_at(0.8, now), [memory], "flow")[0], now + 7)


def test_last_residual_takes_the_noisy_channels_of_a_wider_input():
    """Image-to-video: conditioning channels follow the noisy ones."""
    before, now = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    memory = LastResidual().remember(call_at(0.9, before), [before[:, :3] + 7], "flow")
    torch.testing.assert_close(LastResidual().predict(call_at(0.8, now), [memory], "flow")[0], now[:, :3] + 7)


def test_last_residual_reuses_an_output_without_counterpart_in_the_input():
    """Learned variances: the output has more channels than the input."""
    output = torch.randn(2, 6, 4)
    memory = LastResidual().remember(call_at(0.9, torch.randn(2, 3, 4)), [output], "flow")
    assert torch.equal(LastResidual().predict(call_at(0.8, torch.randn(2, 3, 4)), [memory], "flow")[0], output)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("sigmas", [(0.9, 0.8, 0.7), (0.95, 0.9, 0.6)])
def test_undamped_extrapolation_is_exact_for_polynomials_of_its_order(order, sigmas):
    f = polynomial(*[1.0, -2.0, 3.0][: order + 1])
    found = predicted(Extrapolate(order, limit=float("inf"), damping=1.0), sigmas, [f(s) for s in sigmas], 0.45)
    torch.testing.assert_close(found, f(0.45), rtol=1e-5, atol=1e-5)


def test_a_forecast_that_is_corrected_afterwards_goes_a_share_of_the_way():
    f = polynomial(1.0, -2.0)
    whole, half = (predicted(Extrapolate(1, damping=share), (0.9, 0.8), [f(0.9), f(0.8)], 0.6) for share in (1.0, 0.5))
    torch.testing.assert_close(half - f(0.8), 0.5 * (whole - f(0.8)), rtol=1e-5, atol=1e-5)
    uncorrected = predicted(Extrapolate(1, corrector=0, damping=0.5), (0.9, 0.8), [f(0.9), f(0.8)], 0.6)
    torch.testing.assert_close(uncorrected, whole)


def test_a_forecast_goes_as_far_as_it_should_have_gone_the_last_time_sample_by_sample():
    """Sample 0 goes on, sample 1 half as fast, sample 2 turns back, sample 3 turns at a right angle."""
    paths = torch.tensor(
        [[[1.0, 0.0]], [[0.5, 0.0]], [[-1.0, 0.0]], [[0.0, 1.0]]]
    )  # (B, 1, 2) from the second to the third
    before, last = torch.zeros(4, 1, 2), torch.tensor([[[1.0, 0.0]]]).expand(4, 1, 2)
    found = predicted(Extrapolate(1, damping=1.0), (0.9, 0.8, 0.7), [before, last, last + paths], 0.6)
    went = found - (last + paths)
    torch.testing.assert_close(went, torch.tensor([1.0, 0.5, 0.0, 0.0]).view(4, 1, 1) * paths, rtol=1e-4, atol=1e-5)
    timid = predicted(Extrapolate(1, damping=0.3), (0.9, 0.8, 0.7), [before, last, last + paths], 0.6)
    torch.testing.assert_close(timid[0] - last[0] - paths[0], 0.3 * paths[0], rtol=1e-4, atol=1e-5)


def test_the_second_order_term_is_limited_to_a_share_of_the_first_sample_by_sample():
    """Sample 0 is a parabola that bends little, sample 1 one that bends much."""
    bend = torch.tensor([0.1, 50.0]).view(2, 1, 1)

    def f(sigma):
        return (1.0 - 2.0 * sigma + bend * sigma**2).expand(2, 3, 4)

    sigmas, now = (0.9, 0.8, 0.7), 0.6
    values = [f(s) for s in sigmas]
    line = predicted(Extrapolate(1, damping=1.0), sigmas[1:], values[1:], now)
    limited = predicted(Extrapolate(2, limit=0.05, damping=1.0), sigmas, values, now)
    torch.testing.assert_close(limited[0], f(now)[0], rtol=1e-4, atol=1e-4)
    assert (limited[1] - line[1]).norm() == pytest.approx(float(0.05 * (line[1] - values[-1][1]).norm()), rel=1e-4)
    torch.testing.assert_close(predicted(Extrapolate(2, limit=0.0, damping=1.0), sigmas, values, now), line)


@pytest.mark.parametrize("times", [[0.5], [0.5, 0.5], [0.9, 0.7], [0.9, 0.7, 0.7], [0.9, 0.9, 0.7], [0.9, 0.8, 0.7]])
def test_weights_keep_constants_even_where_times_coincide(times):
    """PNDM evaluates twice at one noise level."""
    line, parabola = extrapolation_weights(times, 0.4)
    assert (sum(line), sum(parabola)) == pytest.approx((1.0, 0.0), abs=1e-9)


@pytest.mark.parametrize("kind", ["flow", "inverted_flow", "epsilon", "v_prediction", "sample"])
def test_clean_estimate_and_output_convert_both_ways(kind):
    latents, output = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    clean = clean_from_output(output, latents, 0.7, kind)
    torch.testing.assert_close(output_from_clean(clean, latents, 0.7, kind), output, rtol=1e-4, atol=1e-4)


def straight(x0, noise, sigma):
    return (1 - sigma) * x0 + sigma * noise


def unit_variance(x0, noise, sigma):
    return (x0 + sigma * noise) / math.hypot(1, sigma)


@pytest.mark.parametrize(
    ("kind", "mix", "target"),
    [
        ("flow", straight, lambda x0, n, s: n - x0),
        ("inverted_flow", straight, lambda x0, n, s: x0 - n),
        ("epsilon", unit_variance, lambda x0, n, s: n),
        ("v_prediction", unit_variance, lambda x0, n, s: (n - s * x0) / math.hypot(1, s)),
        ("sample", unit_variance, lambda x0, n, s: x0),
    ],
)
def test_clean_estimate_of_a_perfect_prediction_is_the_clean_sample(kind, mix, target):
    x0, noise, sigma = torch.randn(2, 3, 4), torch.randn(2, 3, 4), 0.6
    found = clean_from_output(target(x0, noise, sigma), mix(x0, noise, sigma), sigma, kind)
    torch.testing.assert_close(found, x0, rtol=1e-4, atol=1e-5)


def test_extrapolating_the_clean_estimate_is_exact_where_it_is_linear():
    """A perfect flow prediction of a fixed clean sample: any history gives the right velocity."""
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    predictor = Extrapolate(space="x0")
    latents = {s: (1 - s) * x0 + s * noise for s in (0.9, 0.8, 0.5)}
    history = [predictor.remember(call_at(s, latents[s]), [noise - x0], "flow") for s in (0.9, 0.8)]
    found = predictor.predict(call_at(0.5, latents[0.5]), history, "flow")[0]
    torch.testing.assert_close(found, noise - x0, rtol=1e-4, atol=1e-4)


def test_predictions_keep_the_dtype_and_share_no_memory_with_the_history():
    output = torch.randn(2, 3, 4, dtype=torch.bfloat16)
    for predictor in (LastOutput(), LastResidual(), Extrapolate(), Extrapolate(2), Extrapolate(space="x0")):
        latents = torch.randn(2, 3, 4, dtype=torch.bfloat16)
        history = [predictor.remember(call_at(0.9, latents), [output], "flow")]
        found = predictor.predict(call_at(0.8, latents), history, "flow")[0]
        assert found.dtype is torch.bfloat16
        assert found.data_ptr() != history[0].values[0].data_ptr()
