"""Which kinds of modules each reuse method reuses in which steps: lists of numbers against schedules worked out by
hand. c: computed, r: reused."""

import json

import pytest

import accel
from accel import FORA, PAB, AdaCache, SmoothCache, TGate
from accel.caching.methods.adacache import FAST, RatePolicy
from accel.caching.methods.fora import IntervalPolicy
from accel.caching.methods.pab import BroadcastPolicy
from accel.caching.methods.smoothcache import ErrorCurves, MeasuredErrors
from accel.caching.methods.tgate import TGatePolicy
from accel.clock import StepContext
from accel.timetable import Timetable
from tests.tiny import TINY

ALL = frozenset({"self_attention", "feed_forward"})


def contexts(total, sigmas=None, timesteps=None, start=0):
    """A run that enters the timetable at position `start`."""
    sigmas = sigmas or [1.0 - index / total for index in range(total)]
    timesteps = timesteps or [1000 * sigma for sigma in sigmas]
    return [
        StepContext(1, position - start, position, total, sigmas[position], timesteps[position])
        for position in range(start, total)
    ]


def marks(found, kind="self_attention"):
    return "".join("r" if kind in kinds else "c" for kinds in found)


def test_fora_computes_every_nth_step():
    """t % N == 0, section 3.2; the last step computes by the guard."""
    found = FORA(3, min_steps=1).simulate(IntervalPolicy(3, ALL), contexts(10))
    assert marks(found) == marks(found, "feed_forward") == "crrcrrcrrc"
    found = FORA(3, min_steps=1, final=0).simulate(IntervalPolicy(3, ALL), contexts(9))
    assert marks(found) == "crrcrrcrr"
    found = FORA(4, min_steps=1, warmup=3, final=2).simulate(IntervalPolicy(4, ALL), contexts(12))
    assert marks(found) == "cccrrrcrrrcc"
    assert marks(FORA(1).simulate(IntervalPolicy(1, ALL), contexts(12))) == "c" * 12


def test_short_runs_are_left_alone():
    assert marks(FORA(3).simulate(IntervalPolicy(3, ALL), contexts(9))) == "c" * 9
    assert "r" in marks(FORA(3).simulate(IntervalPolicy(3, ALL), contexts(10)))
    decision = FORA(3).decide(IntervalPolicy(3, ALL), contexts(9)[4])
    assert "min_steps=10" in decision.reason


def test_pab_reuses_within_the_window_except_in_every_nth_step():
    """Timesteps 1000, 950, ..., 50. Strictly between 100 and 800 lie the steps 5 (750) to 17 (150)."""
    method = PAB(6, 2, 4, (100.0, 800.0), final=0)
    found = method.simulate(BroadcastPolicy(method.ranges, method.window), contexts(20))
    #                                                        0    5   9   13   18
    assert marks(found, "self_attention") == "ccccc" + "rcrcrcrcrcrcr" + "cc"
    assert marks(found, "temporal_attention") == "ccccc" + "rrrcrrrcrrrcr" + "cc"
    assert marks(found, "cross_attention") == "ccccc" + "rcrrrrrcrrrrr" + "cc"
    assert marks(found, "feed_forward") == "c" * 20


def test_pab_goes_by_timesteps_and_not_by_sigma():
    """A noise-to-signal ratio is not on the window's scale."""
    method = PAB(2, 1, 1, (100.0, 800.0), final=0, min_steps=1)
    given = contexts(4, sigmas=[14.6, 3.0, 0.5, 0.1], timesteps=[999.0, 700.0, 300.0, 50.0])
    assert marks(method.simulate(BroadcastPolicy(method.ranges, method.window), given), "cross_attention") == "crcc"
    assert method.ranges == {"cross_attention": 2}


def test_tgate_follows_the_published_schedule():
    """25 steps, gate 10, warm-up 2, interval 5. The reference computes cross-attention in the steps 0..9, caches
    self-attention in step 2, refreshes it in step 5 and in step 9, the gate's, and computes it from there on."""
    method = TGate(10, 5, warmup=2)
    found = method.simulate(TGatePolicy(10, 5, 2), contexts(25))
    assert marks(found, "cross_attention") == "c" * 10 + "r" * 15
    assert marks(found, "self_attention") == "ccc" + "rr" + "c" + "rrr" + "c" + "c" * 15
    assert marks(found, "temporal_attention") == marks(found, "self_attention")


def test_tgate_takes_a_fraction_of_the_run():
    found = TGate(0.4).simulate(TGatePolicy(0.4, 1, 2), contexts(50))
    assert marks(found, "cross_attention") == "c" * 20 + "r" * 30


def test_tgate_gates_image_to_image_where_a_full_run_would_be():
    """A run that begins at position 8 of 25 has two steps before the gate."""
    found = TGate(10, warmup=1).simulate(TGatePolicy(10, 1, 1), contexts(25, start=8))
    assert marks(found, "cross_attention") == "cc" + "r" * 15


def test_adacache_looks_the_next_step_up():
    """Codebook: under 0.1 four steps, under 0.2 two, else one. By hand, with the change seen at each step:

    0 computes, nothing is known, so 1 computes: 0.05 / 1 -> 4, next 5. At 5: 0.6 / 4 = 0.15 -> 2, next 7.
    At 7: 0.5 / 2 = 0.25 -> 1, next 8. At 8: 0.09 / 1 -> 4, next 12. At 12: 0.4 / 4 = 0.1, not under 0.1 -> 2, next 14.
    """
    changes = [9.0, 0.05, 9, 9, 9, 0.6, 9, 0.5, 0.09, 9, 9, 9, 0.4, 9, 0.0, 9]
    method = AdaCache((0.1, 4, 0.2, 2), final=0)
    found = method.simulate(RatePolicy(method.codebook, 1, ALL, None), contexts(16), changes)
    assert marks(found) == "cc" + "rrr" + "c" + "r" + "cc" + "rrr" + "c" + "r" + "c" + "r"
    assert marks(found, "feed_forward") == marks(found)


def test_adacache_computes_the_last_two_steps_and_goes_on_from_forced_ones():
    """Reuse for eight steps: the guard's computed step starts the count anew."""
    method = AdaCache((0.1, 8))
    found = method.simulate(RatePolicy(method.codebook, 1, ALL, None), contexts(16), [0.0] * 16)
    assert marks(found) == "cc" + "rrrrrrr" + "c" + "rrrr" + "cc"


@pytest.mark.parametrize(
    ("change", "steps"), [(0.0, 6), (0.079, 6), (0.08, 5), (0.2, 4), (0.3, 3), (0.39, 2), (0.4, 1), (9.0, 1)]
)
def test_adacache_default_codebook_is_the_papers_for_30_steps(change, steps):
    assert RatePolicy(FAST, 1, ALL, None).rate(change) == steps


# Eight steps: E(t, k) for k = 1, 2, 3.
MATRIX = [
    (0.30, 0.50, 0.70),
    (0.05, 0.08, 0.20),
    (0.06, 0.20, 0.30),
    (0.20, 0.05, 0.05),
    (0.04, 0.06, 0.09),
    (0.05, 0.09, 0.12),
    (0.05, 0.07),
    (0.02,),
    (),
]
SIGMAS = [1.0, 0.9, 0.75, 0.7, 0.5, 0.4, 0.3, 0.15, 0.1]
ROWS = tuple((sigma, *errors) for sigma, errors in zip(SIGMAS, MATRIX, strict=True))


@pytest.mark.parametrize(
    ("alpha", "most", "expected"),
    [
        # From 0: 0.3 is too much. From 1: 0.05, 0.08 fit, 0.2 does not. From 4: all three lags fit; then 8 is last.
        (0.10, 3, "cc" + "rr" + "c" + "rrr" + "c"),
        # At most one step: 1 -> 2, 3 has 0.2 (though two steps would fit), 4 -> 5, 6 -> 7.
        (0.10, 1, "cc" + "r" + "c" + "c" + "r" + "c" + "r" + "c"),
        # 0.05 and 0.06 but not 0.08: 1 -> 2; 3 no; 4 -> 5, 6; 7 -> 8, but the last step computes.
        (0.07, 3, "cc" + "r" + "c" + "c" + "rr" + "c" + "c"),
        (0.0, 3, "c" * 9),
        (9.0, 3, "c" + "rrr" + "c" + "rrr" + "c"),
    ],
)
def test_smoothcache_takes_the_longest_reuse_whose_errors_all_fit(alpha, most, expected):
    method = SmoothCache(alpha, (("transformer", "self_attention", ROWS),), most, min_steps=1)
    found = method.simulate(ErrorCurves({"self_attention": ROWS}, alpha, most), contexts(9, SIGMAS))
    assert marks(found) == expected


def test_smoothcache_has_a_schedule_for_every_kind():
    curves = {"self_attention": ROWS, "feed_forward": tuple((row[0], *[9.0] * len(row[1:])) for row in ROWS)}
    found = SmoothCache(0.1, min_steps=1).simulate(ErrorCurves(curves, 0.1, 3), contexts(9, SIGMAS))
    assert marks(found, "self_attention") == "ccrrcrrrc"
    assert marks(found, "feed_forward") == "c" * 9


def test_recorded_errors_come_back_exactly_and_everything_else_is_in_between_or_unknown():
    errors = MeasuredErrors(ROWS)
    for step, row in enumerate(MATRIX):
        for lag, error in enumerate(row, 1):
            assert errors.between(SIGMAS[step], SIGMAS[step + lag]) == pytest.approx(error, rel=1e-12)
    assert errors.between(0.9, 0.9) == 0.0
    assert errors.between(0.9, 0.825) == pytest.approx(0.05 / 2)  # half a step
    # From halfway between the steps 1 and 2 to halfway between 2 and 3: lag 1 of both.
    assert errors.between(0.825, 0.725) == pytest.approx((0.05 + 0.06) / 2)
    assert errors.between(0.9, 0.4) == float("inf")  # lag 4 was not recorded
    assert errors.between(1.1, 1.0) == errors.between(0.15, 0.05) == float("inf")  # nor was this range
    assert errors.between(0.5, 0.9) == float("inf")  # backwards


def test_curves_serve_another_step_count():
    """An error that grows evenly in sigma: half the steps, twice the error, half the reuse."""
    fine = tuple((1 - step / 40, 0.02, 0.04, 0.06, 0.08) for step in range(41))
    method = SmoothCache(0.045, most=10, min_steps=1)
    assert marks(method.simulate(ErrorCurves({"self_attention": fine}, 0.045, 10), contexts(40)))[:7] == "crrcrrc"
    assert marks(method.simulate(ErrorCurves({"self_attention": fine}, 0.045, 10), contexts(20)))[:7] == "crcrcrc"
    assert marks(method.simulate(ErrorCurves({"self_attention": fine}, 0.045, 10), contexts(80)))[:7] == "crrrrcr"


METHODS = [
    FORA(4, warmup=2),
    PAB(5, 3, 2, (450.0, 930.0)),
    TGate(8, 3, warmup=3),
    AdaCache((0.03, 12, 0.05, 10), 3),
    SmoothCache(0.2, (("transformer", "cross_attention", ROWS),), 5),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_methods_survive_json(method):
    recipe = accel.Recipe(cache=method)
    again = accel.Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again.cache == method and hash(again.cache) == hash(method)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FORA(0), "interval must be a whole number from 1"),
        (lambda: PAB(window=(800.0, 100.0)), "window must be"),
        (lambda: PAB(window=(1.0,)), "window must be"),
        (lambda: TGate(-1), "gate must be a number from 0"),
        (lambda: AdaCache((0.1,)), "pairs of a bound"),
        (lambda: AdaCache((0.2, 3, 0.1, 4)), "bounds rising"),
        (lambda: AdaCache((0.1, 2.5)), "whole number of steps"),
        (lambda: SmoothCache(errors=(("transformer", "norm", ROWS),)), "accel.calibrate"),
        (lambda: SmoothCache(errors=(("transformer", "feed_forward", ((0.1, 0.0), (0.9, 0.0))),)), "falling sigma"),
        (lambda: SmoothCache(errors=()), "accel.calibrate"),
    ],
)
def test_bad_settings_get_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


# The scale of the windows


@pytest.mark.parametrize("name", ["wan", "wan_two_experts", "ltx", "mochi", "hunyuan_video", "sana"])
def test_a_flows_timestep_is_a_thousand_sigma(name):
    scheduler = TINY[name].build().scheduler
    scheduler.set_timesteps(8, **({"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}))
    table = Timetable(scheduler)
    assert table.training == pytest.approx([1000 * sigma for sigma in table.sigmas])
    assert table.training == sorted(table.training, reverse=True) and table.training[0] > 990


@pytest.mark.parametrize("name", ["sd", "sdxl", "animatediff", "cogvideox", "cogvideox_dpm", "pixart"])
def test_other_timesteps_are_the_schedulers(name):
    scheduler = TINY[name].build().scheduler
    scheduler.set_timesteps(12)
    table = Timetable(scheduler)
    assert table.training == pytest.approx(table.timesteps, abs=1.0)


def test_timesteps_of_a_continuous_scheduler_are_training_steps_all_the_same():
    scheduler = TINY["svd"].build().scheduler
    scheduler.set_timesteps(25)
    table = Timetable(scheduler)
    assert max(table.timesteps) < 2  # a quarter of the logarithm of sigma
    assert table.training == sorted(table.training, reverse=True)
    assert table.training[0] == 999 and 0 <= table.training[-1] < 10
