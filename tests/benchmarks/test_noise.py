"""What refined noise is worth is shown clip by clip, beside one run from plain noise."""

from benchmarks.noise import VIDEO, Measured, beside, table, ways


def test_a_difference_is_that_of_the_same_prompts_and_seeds() -> None:
    assert beside([0.2, 0.3], [0.1, 0.2]) == "0.2500 (+0.1000 [+0.1000, +0.1000])"
    assert beside([0.2, 0.3], [0.2, 0.3]) == "0.2500"


def test_only_clips_that_can_be_judged_are_counted() -> None:
    clips = [Measured(0.1, 0.2, True), Measured(0.1, 0.2, False)]
    first, second = table("pocket", {"one run": clips, "free": clips})
    assert first.endswith("| 50% [9, 91] of 2 |") and second.startswith("| pocket, free | 0.1000 | 0.2000 |")
    (bare,) = table("films", {"one run": [Measured(0.1, 0.2, None)]})
    assert bare.endswith("| 0.2000 |  |")


def test_one_run_comes_first_because_the_others_are_compared_with_it() -> None:
    assert next(iter(ways(3))) == "one run" and "pocket" in VIDEO and {"films", "waves"} <= set(VIDEO)
