"""The engine on a pipeline whose predictions are known formulas."""

import pytest
import torch

import accel
from accel import EasyCache, Extrapolate, FixedInterval, LastOutput, LastResidual, MagCache, SeaCache, TeaCache
from tests.caching.toy import ToyPipeline


def run(cache, formula, steps=20):
    pipe = ToyPipeline(formula)
    with accel.accelerate(pipe, cache=cache) as session:
        predictions = pipe(num_inference_steps=steps)
    return predictions, session.report(), pipe


def linear(latents, sigma):
    return torch.full_like(latents, 3.0 - 2.0 * sigma)


def test_a_prediction_that_is_linear_in_sigma_is_extrapolated_exactly():
    predictions, report, _ = run(FixedInterval(4, predictor=Extrapolate(1, corrector=0, reach=9.0)), linear)
    assert report.timeline() == {"pass 1": "███···█···█···█···██"}
    torch.testing.assert_close(predictions, ToyPipeline(linear)(num_inference_steps=20), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("predictor", [LastOutput(), LastResidual(), Extrapolate(1), Extrapolate(2)])
def test_timeline_and_calls_agree(predictor):
    _, report, pipe = run(FixedInterval(3, predictor=predictor), linear)
    assert report.timeline() == {"pass 1": "███··█··█··█··█··█·█"}
    assert pipe.transformer.calls == report.computed == 9


def test_last_output_and_last_residual_follow_their_formulas():
    def formula(latents, sigma):
        return latents * sigma

    reused, report, _ = run(FixedInterval(2, predictor=LastOutput()), formula)
    skipped = [call.step for call in report.calls if call.action == "predicted"]
    assert all(torch.equal(reused[step], reused[step - 1]) for step in skipped)

    pipe, seen = ToyPipeline(formula), []
    forward = pipe.transformer.forward
    pipe.transformer.forward = lambda latents, timestep: (seen.append(latents.clone()), forward(latents, timestep))[1]
    session = accel.accelerate(pipe, cache=FixedInterval(2, predictor=LastResidual()))
    steps = []
    outer = pipe.scheduler.step
    pipe.scheduler.step = lambda v, t, x, **kwargs: (steps.append((x, v)), outer(v, t, x, **kwargs))[1]
    pipe(num_inference_steps=20)
    for call in session.report().calls:
        if call.action == "predicted":
            (x0, v0), (x1, v1) = steps[call.step - 1 : call.step + 1]
            torch.testing.assert_close(v1, x1 + (v0 - x0))
    assert len(seen) == session.report().computed


def test_guards_are_kept():
    _, report, _ = run(FixedInterval(50, warmup=5, final=3, max_skips=4), linear)
    assert report.timeline() == {"pass 1": "█████····█····█··███"}


def test_a_short_run_is_left_alone_and_the_report_says_so():
    _, report, _ = run(FixedInterval(2), linear, steps=8)
    assert report.predicted == 0
    lever = report.levers[0]
    assert not lever.engaged
    assert "under min_steps=10" in lever.reason


@pytest.mark.parametrize("method", [EasyCache, SeaCache])
def test_threshold_zero_never_skips_and_infinity_always(method):
    _, never, _ = run(method(0.0), linear)
    assert never.predicted == 0
    _, always, _ = run(method(float("inf"), warmup=3, max_skips=1000), linear)
    assert always.timeline() == {"pass 1": "███" + "·" * 16 + "█"}


def test_easycache_decides_as_computed_by_hand():
    """Constant output: its rate of change is zero, so nothing accumulates. Growing output: it does."""
    _, still, _ = run(EasyCache(0.05), lambda latents, sigma: torch.ones_like(latents))
    assert still.predicted == 16

    def moving(latents, sigma):
        return latents * 2

    threshold, steps = 0.3, 20
    _, report, _ = run(EasyCache(threshold, predictor=Extrapolate(1, corrector=0, reach=9.0)), moving, steps)
    # By hand: x moves by v/20 per step; out = 2 x, so k = 2 and each distance is 2 |dx| / |out_full|.
    # The predictor is order 1 in sigma, which is evenly spaced here.
    x, total, expected = 1.0, 0.0, ""
    full = older = previous = rate = None
    for step in range(steps):
        forced = step < 3 or step == steps - 1
        if rate is not None and previous is not None:
            total += rate * abs(x - previous) / abs(full[1])
        skip = not forced and rate is not None and total < threshold
        previous = x
        if skip:
            v = full[1] + (x - full[0]) * 0  # the predictor of this run is order 1 in sigma, followed below
            v = older[1] + (full[1] - older[1]) * (step - older[2]) / (full[2] - older[2])
        else:
            total, v = 0.0, 2 * x
            if full is not None:
                rate = abs(v - full[1]) / abs(x - full[0])
            older, full = full, (x, v, step)
        expected += "·" if skip else "█"
        x -= v / steps
    assert report.timeline() == {"pass 1": expected}
    assert "·" in expected


def test_teacache_leaves_the_denoiser_at_the_probe():
    _, report, pipe = run(TeaCache(float("inf"), coefficients=(1.0, 0.0), max_skips=1000), linear)
    assert report.predicted == 18
    assert pipe.transformer.calls == 2
    assert not pipe.transformer.blocks[0].attn1._forward_pre_hooks


@pytest.mark.parametrize(("method", "word"), [(TeaCache(), "coefficients"), (MagCache(), "ratios")])
def test_an_uncalibrated_model_is_left_alone_and_told_how_to_calibrate(method, word):
    predictions, report, _ = run(method, linear)
    assert torch.equal(predictions, ToyPipeline(linear)(num_inference_steps=20))
    lever = report.levers[0]
    assert not lever.engaged
    assert word in lever.reason
    assert "calibrate(pipe, prompts)" in lever.reason


@pytest.mark.parametrize(
    ("cache", "latents"),
    [
        (FixedInterval(2, predictor=LastOutput()), 1),
        (FixedInterval(2, predictor=Extrapolate(1, corrector=0)), 3),
        (FixedInterval(2, predictor=Extrapolate(2, corrector=0)), 4),
        (FixedInterval(2, predictor=Extrapolate(1, corrector=2)), 3 + 1),
        (FixedInterval(2, predictor=Extrapolate(1, corrector=3)), 3 + 1),
        (EasyCache(0.1, predictor=Extrapolate(1, corrector=0)), 3 + 3),
        (SeaCache(0.1, predictor=LastResidual()), 1 + 1),
    ],
)
def test_extra_memory_is_what_the_docstring_says(cache, latents):
    _, report, _ = run(cache, linear)
    assert report.levers[0].extra_bytes == latents * 2 * 4 * 4 * 4


def test_nothing_is_held_after_the_run():
    pipe = ToyPipeline(linear)
    session = accel.accelerate(pipe, cache=EasyCache(0.1))
    pipe()
    assert all(not lever._streams for lever in session._levers)


def test_a_threshold_that_is_too_low_is_named_as_the_reason():
    _, report, _ = run(EasyCache(0.0), linear)
    assert "raise it to skip" in report.levers[0].reason


def test_an_unknown_layout_is_measured_without_the_filter_and_the_report_says_so():
    _, report, _ = run(SeaCache(0.3), lambda latents, sigma: latents)
    assert "filter" not in report.levers[0].reason  # (B, C, H, W) is known
    pipe = ToyPipeline(lambda latents, sigma: latents)
    pipe.shape = (1, 6, 4)  # packed tokens, and nothing says how many rows they make
    with accel.accelerate(pipe, cache=SeaCache(0.3)) as session:
        pipe()
    assert session.report().predicted > 0
    assert "measured without the filter" in session.report().levers[0].reason
