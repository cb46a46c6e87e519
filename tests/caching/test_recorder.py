"""Calibration recovers what was planted, and its constants work on the model that they were recorded on."""

from itertools import pairwise

import pytest
import torch

import accel
from accel.caching import record
from accel.patch import session_of
from tests.caching.toy import ToyPipeline


def test_magcache_ratios_recover_the_planted_residual_norms():
    norms = {}

    def formula(latents, sigma):
        norms[sigma] = 1.0 + sigma**2
        return latents + norms[sigma] * torch.ones_like(latents)

    ratios = record(ToyPipeline(formula), ["x"], num_inference_steps=12).magcache().ratios
    planted = list(norms.values())
    expected = [1.0] + [now / before for before, now in pairwise(planted)]
    assert ratios == pytest.approx(expected, rel=1e-4)


def test_teacache_polynomial_recovers_the_planted_relation():
    """The output moves exactly twice as fast as the signal: P(d) = 2 d."""

    def formula(latents, sigma):
        return torch.full_like(latents, (1.0 + sigma) ** 2)

    recording = record(ToyPipeline(formula, lambda sigma: (1.0 + sigma) ** 2), ["x"], num_inference_steps=30)
    fitted = recording.teacache(degree=1)
    assert fitted.coefficients == pytest.approx((1.0, 0.0), abs=1e-4)
    assert recording.fit_quality(degree=1) == pytest.approx(1.0, abs=1e-6)
    low, high = fitted.fitted_range
    assert 0 < low < high


def test_recorded_constants_engage_on_the_recorded_model():
    pipe = ToyPipeline(lambda latents, sigma: latents * sigma)
    recording = record(pipe, ["x"], num_inference_steps=20)
    for method in (recording.teacache(threshold=1.0), recording.magcache(threshold=1.0)):
        with accel.accelerate(pipe, cache=method) as session:
            pipe(num_inference_steps=20)
        assert session.report().predicted > 0


def test_recording_puts_an_attached_session_back():
    pipe = ToyPipeline(lambda latents, sigma: latents * sigma)
    session = accel.accelerate(pipe, "fast")
    record(pipe, ["x"])
    assert session_of(pipe) is not session
    assert session_of(pipe).recipe == session.recipe
    accel.restore(pipe)
    assert session_of(pipe) is None


def test_bad_input_gets_a_sentence():
    pipe = ToyPipeline(lambda latents, sigma: latents * sigma)
    with pytest.raises(ValueError, match="list of at least one prompt"):
        record(pipe, "x")
    with pytest.raises(ValueError, match="must be one of modulated_input"):
        record(pipe, ["x"]).teacache(signal="nothing")
    with pytest.raises(ValueError, match="no time embedding"):
        record(pipe, ["x"]).teacache(signal="time_embedding")
