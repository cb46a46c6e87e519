"""What is learned from real runs: factors on simulated errors, on time, and how far to trust them."""

from __future__ import annotations

import math

import pytest

from accel.precision import BFloat16
from accel.samplers import AdaptiveGuidance, GuidanceDelta
from accel.tuning.simulate import Estimate
from accel.tuning.space import Candidate, Structure
from accel.tuning.surrogate import Observation, Surrogate, TimeFactors

CACHE, GUIDED = Structure("planned"), Structure("planned", AdaptiveGuidance())


def outlook(cache: float, guidance: float | None = None, evaluations: float = 0.5) -> Estimate:
    errors = {"cache": cache} | ({} if guidance is None else {"guidance": guidance})
    return Estimate(evaluations, evaluations, errors)


def seen(
    candidate: Candidate, about: Estimate, factor: float, clip: int = 0, time: float = 0.5
) -> tuple[Observation, Estimate]:
    return Observation(candidate, clip, factor * sum(about.errors.values()), time, about.evaluations), about


def decibel(squared_error: float) -> float:
    return -10.0 * math.log10(squared_error)


def test_before_any_run_the_priors_speak() -> None:
    belief = Surrogate(0.0).believe(Candidate(CACHE, 0.4), outlook(0.01))
    assert belief.decibels == pytest.approx(decibel(0.008 * 0.01), abs=0.01)
    assert belief.doubt > 5.0
    assert belief.speedup == pytest.approx(2.0)


def test_one_setting_tells_about_the_others_of_its_structure() -> None:
    surrogate = Surrogate(0.0)
    runs = [
        seen(Candidate(CACHE, share), outlook(error), 0.05, clip)
        for share, error in ((0.5, 1e-3), (0.3, 1e-2))
        for clip in range(3)
    ]
    surrogate.fit(runs)
    belief = surrogate.believe(Candidate(CACHE, 0.2), outlook(0.1))
    assert belief.decibels == pytest.approx(decibel(0.05 * 0.1), abs=2.5), "from 0.008 most of the way to 0.05"
    assert belief.doubt < Surrogate(0.0).believe(Candidate(CACHE, 0.2), outlook(0.1)).doubt / 1.5


def test_errors_of_levers_add_so_that_one_lever_is_learned_from_another_structure() -> None:
    surrogate = Surrogate(0.0)
    surrogate.fit([seen(Candidate(CACHE, 0.3), outlook(1e-2), 0.05, clip) for clip in range(4)])
    before = Surrogate(0.0).believe(Candidate(GUIDED, 0.3), outlook(1e-2, 1e-6))
    after = surrogate.believe(Candidate(GUIDED, 0.3), outlook(1e-2, 1e-6))
    assert after.decibels < before.decibels - 3.0


def test_a_hard_prompt_is_not_held_against_the_method() -> None:
    easy = [seen(Candidate(CACHE, 0.3), outlook(1e-2), 0.008, clip) for clip in (0, 1)]
    hard = [seen(Candidate(structure, 0.3), outlook(1e-2, 0.0), 0.08, 2) for structure in (CACHE, GUIDED)]
    surrogate = Surrogate(0.0)
    surrogate.fit([*easy, *hard])
    belief = surrogate.believe(Candidate(CACHE, 0.3), outlook(1e-2))
    assert belief.decibels > decibel(0.08 * 1e-2) + 5.0
    assert belief.scatter > Surrogate(0.0).scatter * 10.0 / math.log(10.0) * 0.9


def test_a_method_that_costs_time_is_believed_to_be_slower() -> None:
    surrogate = Surrogate(0.0)
    slow = Candidate(Structure("planned", GuidanceDelta()), 0.5)
    about = outlook(1e-3, 1e-3)
    surrogate.fit([seen(slow, about, 0.008, clip, time=0.75) for clip in range(4)])
    assert surrogate.believe(slow, about).speedup == pytest.approx(1 / 0.75, rel=0.1)


def test_what_short_runs_have_told_is_believed_until_real_ones_say_otherwise() -> None:
    """A decoder in fewer bits takes off what no cache can, so that the whole call counts."""
    halves = Structure("planned", precision=BFloat16(decoder="16 bits"))
    name, about = halves.names()[1], outlook(1e-3)
    surrogate = Surrogate(0.5, told={name: TimeFactors(denoise=0.5, around=0.25)})
    believed = 0.5 * 0.25 + 0.5 * 0.5 * 0.5
    assert surrogate.believe(Candidate(halves, 0.5), about).speedup == pytest.approx(1 / believed)
    assert surrogate.believe(Candidate(CACHE, 0.5), about).speedup == pytest.approx(1 / 0.75)
    surrogate.fit([seen(Candidate(halves, 0.5), about, 0.008, clip, time=0.125 + 0.2) for clip in range(4)])
    assert surrogate.believe(Candidate(halves, 0.5), about).speedup == pytest.approx(1 / 0.325, rel=0.05)


def test_what_is_not_denoising_is_not_saved() -> None:
    belief = Surrogate(0.5).believe(Candidate(CACHE, 0.1), outlook(1e-3, evaluations=1e-9))
    assert belief.speedup == pytest.approx(2.0)
