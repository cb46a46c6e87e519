"""What each method measures, against the formula of its paper."""

import pytest
import torch

from accel.caching.calibration import published
from accel.caching.calibration.published import Polynomial
from accel.caching.methods.easycache import TransformationRate
from accel.caching.methods.seacache import SpectralChange, sea_filter
from accel.caching.methods.teacache import ProbedChange
from accel.caching.signal import Probe, relative_distance
from accel.call import DenoiserCall
from accel.clock import StepContext


def call_with(latents, sigma=0.5):
    context = StepContext(run=1, step=3, position=3, total=10, sigma=sigma)
    return DenoiserCall("transformer", "cond", True, context, (), {}, [latents], torch.nn.Identity(), {})


def test_relative_distance_is_that_of_the_sample_that_moved_most():
    before = torch.ones(2, 4)
    now = before.clone()
    now[1] += 0.5
    assert relative_distance([now], [before]) == pytest.approx(0.5)


def test_easycache_rate_is_output_change_over_input_change():
    """For out = A in + c the predicted relative change is |A step| / |out|."""
    signal, gain = TransformationRate(), 3.0
    x = [torch.full((1, 4), value) for value in (1.0, 1.1, 1.3, 1.4)]
    out = [gain * value + 2.0 for value in x]
    for step in (0, 1):
        assert signal.observe(call_with(x[step]), None) is None  # the rate needs two computed steps
        signal.after_compute(call_with(x[step]), [out[step]])
    assert signal.observe(call_with(x[2]), None) == pytest.approx(gain * 0.2 / float(out[1].mean()))
    # A skipped step still moves the reference for the next distance, but not the rate.
    assert signal.observe(call_with(x[3]), None) == pytest.approx(gain * 0.1 / float(out[1].mean()), rel=1e-4)


def test_easycache_ignores_conditioning_channels():
    signal = TransformationRate()
    noisy = [torch.full((1, 2, 4), value) for value in (1.0, 1.1, 1.3)]
    inputs = [torch.cat([value, 100 * torch.randn(1, 3, 4)], dim=1) for value in noisy]
    for step in (0, 1):
        signal.observe(call_with(inputs[step]), None)
        signal.after_compute(call_with(inputs[step]), [2 * noisy[step]])
    assert signal.observe(call_with(inputs[2]), None) == pytest.approx(2 * 0.2 / 2.2, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 2, 5, 8, 6), (1, 2, 7, 9)])
def test_sea_filter_is_linear_and_commutes_with_shifts(shape):
    axes = tuple(range(2, len(shape)))
    a, b = torch.randn(shape), torch.randn(shape)
    filtered = [sea_filter(x, axes, 0.5, 0.5, 2.0) for x in (a, b, 2 * a - b)]
    torch.testing.assert_close(filtered[2], 2 * filtered[0] - filtered[1], rtol=1e-4, atol=1e-4)
    shifted = sea_filter(a.roll(2, dims=-1), axes, 0.5, 0.5, 2.0)
    torch.testing.assert_close(shifted, filtered[0].roll(2, dims=-1), rtol=1e-4, atol=1e-4)


def test_sea_filter_keeps_everything_without_noise_and_the_content_with_it():
    noise = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(sea_filter(noise, (2, 3), 1.0, 1e-6, 2.0), noise, rtol=1e-3, atol=1e-3)
    spectrum = torch.fft.fftn(sea_filter(noise, (2, 3), 0.1, 0.9, 2.0), dim=(2, 3)).abs()[0, 0]
    assert spectrum[16, 16] / spectrum[1, 1] < 0.1 * torch.fft.fftn(noise, dim=(2, 3)).abs()[0, 0][16, 16]


def test_sea_filter_equals_the_wiener_formula():
    x, signal, noise, power = torch.randn(1, 1, 6, 4), 0.3, 0.7, 2.0
    gain = torch.ones(6, 4)
    for axis in (0, 1):
        clean = 1.0 / (torch.fft.fftfreq(gain.shape[axis]).abs() ** power + 1e-16)
        along = signal * clean / (signal**2 * clean + noise**2)
        gain = gain * along.view([-1, 1] if axis == 0 else [1, -1])
    expected = torch.fft.ifftn(torch.fft.fftn(x, dim=(2, 3)) * gain / gain.mean(), dim=(2, 3)).real
    torch.testing.assert_close(sea_filter(x, (2, 3), signal, noise, power), expected, rtol=1e-4, atol=1e-5)


def test_seacache_sees_no_change_where_there_is_none_and_measures_unknown_layouts_unfiltered():
    signal = SpectralChange(0.0, "flow", {"in_channels": 2})
    x = torch.randn(1, 2, 3, 8, 8)
    assert signal.observe(call_with(x), None) is None
    assert signal.observe(call_with(x), None) == pytest.approx(0.0, abs=1e-6)
    packed, tokens = SpectralChange(0.0, "flow", {}), torch.randn(1, 12, 4)
    assert packed.observe(call_with(tokens), None) is None
    assert packed.observe(call_with(1.5 * tokens), None) == pytest.approx(0.5)
    assert "without the filter" in packed.note


def test_teacache_measures_what_the_probe_heard():
    signal = ProbedChange(Probe("blocks.0.attn1", "input"), Polynomial("given", "modulated_input", (2.0, 0.0)), True)
    assert signal.observe(call_with(torch.zeros(1)), torch.full((1, 4), 1.0)) is None
    assert signal.observe(call_with(torch.zeros(1)), torch.full((1, 4), 1.1)) == pytest.approx(0.2, rel=1e-4)


# Dossier, section 24.1: P(d) at .02, .05, .1, .2.
PUBLISHED_VALUES = [
    ("Wan2.1-T2V-1.3B", (0.042, 0.077, 0.250, -0.123)),
    ("HunyuanVideo", (0.057, 0.062, 0.129, 0.134)),
    ("FLUX.1-dev", (0.208, 0.181, 0.207, 0.262)),
    ("LTX-Video-0.9", (0.026, 0.054, 0.101, 0.193)),
    ("CogVideoX-5b", (0.060, 0.106, 0.091, 0.451)),
    ("Mochi-1", (0.033, 0.051, 0.097, -1.076)),
]


@pytest.mark.parametrize(("model", "values"), PUBLISHED_VALUES)
def test_published_polynomials_have_the_published_values_and_never_fall_below_zero(model, values):
    row = next(row for row in published._table("teacache") if row["model"] == model)
    polynomial = Polynomial(model, row["signal"], tuple(row["coefficients"]))
    for distance, value in zip((0.02, 0.05, 0.1, 0.2), values, strict=True):
        assert polynomial(distance, clamp=False) == pytest.approx(value, abs=6e-4)
        assert polynomial(distance) == pytest.approx(max(value, 0.0), abs=6e-4)


def test_distances_outside_the_fitted_range_count_as_its_ends():
    polynomial = Polynomial("given", "modulated_input", (1.0, 0.0), fitted_range=(0.1, 0.2))
    assert [polynomial(d) for d in (0.0, 0.15, 9.0)] == pytest.approx([0.1, 0.15, 0.2])
