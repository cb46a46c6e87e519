"""Policies are pure: lists of numbers in, C (compute) and S (skip) out."""

import pytest

from accel.caching.calibration import published
from accel.caching.policy import AccumulatedDistance, AccumulatedMagnitude, EveryNth, guard


def decisions(policy, distances):
    """C or S for each step; a computed step tells the policy so, as the engine does."""
    letters = []
    for position, distance in enumerate(distances):
        skip = policy.decide(distance, position, len(distances)).skip
        letters.append("S" if skip else "C")
        if not skip:
            policy.after_compute()
    return "".join(letters)


@pytest.mark.parametrize(("interval", "expected"), [(1, "CCCCCC"), (2, "SCSCSC"), (3, "SSCSSC")])
def test_every_computes_each_nth_step_after_a_computed_one(interval, expected):
    assert decisions(EveryNth(interval), [None] * 6) == expected


@pytest.mark.parametrize(
    ("threshold", "distances", "expected"),
    [
        (0.25, [None, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], "CSSCSSC"),  # .1, .2, then .3 >= .25
        (0.3, [None, 0.1, 0.3, 0.1, 0.25], "CSCSC"),  # ramps and spikes
        (0.2, [None, 0.1, 0.1], "CSC"),  # a sum equal to the threshold computes
        (0.0, [None, 0.0, 0.0], "CCC"),  # zero never skips, not even without any change
        (float("inf"), [None, 9.0, 9.0], "CSS"),
    ],
)
def test_accumulate(threshold, distances, expected):
    assert decisions(AccumulatedDistance(threshold), distances) == expected


def test_accumulate_corrects_distances_before_adding_them():
    assert decisions(AccumulatedDistance(0.25, rescale=lambda d: 2 * d), [None, 0.1, 0.1, 0.1]) == "CSCS"


def test_a_forced_computation_starts_the_sum_anew():
    policy = AccumulatedDistance(0.25)
    assert policy.decide(0.2, 1, 10).skip
    policy.after_compute()
    assert policy.decide(0.2, 2, 10).skip


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (dict(step=0), "warm-up"),
        (dict(step=1, left=9), "warm-up"),
        (dict(left=2), None),
        (dict(left=1), "last steps"),
        (dict(skipped=3), "3 predictions in a row"),
        (dict(steps=7, left=4), "a run of 7 steps is under min_steps=8"),
    ],
)
def test_guard(values, expected):
    defaults = dict(step=5, steps=10, left=5, skipped=0, warmup=2, final=1, max_skips=3, min_steps=8)
    decision = guard(**(defaults | values))
    assert (decision.reason if decision else None) == expected


# Computed from the published ratios by hand-written simulation (F computes, s skips); final step not forced.
MAGCACHE_SCHEDULES = [
    ("FLUX.1-dev", 0.06, 3, 0.2, "FFFFFFsFsFsssFsssFsssFssFsFF"),
    ("FLUX.1-Kontext", 0.05, 4, 0.2, "FFFFFFsFssFssssFssssFssFsFFF"),
    ("HunyuanVideo-720p", 0.24, 6, 0.2, "FFFFFFFFFFssssFsssFssssFsssssFssssFssssssFssssFsFF"),
    ("HunyuanVideo-720p", 0.12, 4, 0.2, "FFFFFFFFFFssFssFssFsssFssFsssFsssFssssFssssFssFsFF"),
    ("Wan2.1-T2V-1.3B", 0.12, 2, 0.2, "FFFFFFFFFFssFssFssFssFssFssFssFssFssFssFssFsFsFsFF"),
    ("Wan2.1-T2V-1.3B", 0.12, 4, 0.2, "FFFFFFFFFFssssFssssFssssFssssFssssFsssFssFssFsFsFF"),
    ("Wan2.1-T2V-14B", 0.12, 4, 0.2, "FFFFFFFFFFssssFssssFssssFssssFssssFsssFssFssFsFsFF"),
    ("Wan2.1-I2V-14B-480P", 0.12, 2, 0.2, "FFFFFFFFssFssFssFssFssFssFssFssFssFsFsFs"),
    ("Wan2.1-I2V-14B-720P", 0.12, 2, 0.2, "FFFFFFFFssFssFssFssFssFssFssFssFssFsFsFF"),
    ("Wan2.2-TI2V-5B", 0.06, 2, 0.2, "FFFFFFFFFFssFssFssFssFssFssFssFssFssFsFsFsFsFsFsFs"),
    ("Qwen-Image", 0.06, 2, 0.2, "FFFFFFFFFFFFFFFFsFFFsFsFsFsFsFsFssFssFsFsFFFFFFFFF"),
    ("Qwen-Image-Edit", 0.06, 2, 0.2, "FFFFFFFFFFFFFsFsFsFsFsFsFsFssFssFssFsFsFFFFFFFFFFF"),
]


@pytest.mark.parametrize(("model", "threshold", "most", "retention", "schedule"), MAGCACHE_SCHEDULES)
def test_published_ratios_give_the_published_schedules(model, threshold, most, retention, schedule):
    row = next(row for row in published._table("magcache") if row["model"] == model)
    if row["denoiser"] == "FluxTransformer2DModel":
        retention += 0.5 / len(schedule)  # the FLUX reference rounds where the others truncate
    policy = AccumulatedMagnitude(row["ratios"], threshold, most, retention)
    found = decisions(policy, [None] * len(schedule)).replace("C", "F").replace("S", "s")
    assert found == schedule


def test_ratios_of_another_step_count_are_taken_from_the_nearest_entry():
    ratios = [1.0, 1.0, 0.5, 0.5]
    policy = AccumulatedMagnitude(ratios, threshold=0.4, most=9, retention=0.0)
    assert [policy._ratio(position, 7) for position in range(7)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
