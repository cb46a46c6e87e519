"""Static schedules: the plan is the best there is, by brute force; it obeys its rules; lists hold at any step count."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

import accel
from accel import OptimalSchedule, StaticSchedule
from accel.caching.methods.schedules import nearest_steps
from accel.caching.planning import PlanRules, cheapest, gap_errors, plan_steps, uneven
from tests.caching.toy import ToyPipeline


def flow_sigmas(steps: int) -> list[float]:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    return [float(sigma) for sigma in scheduler.sigmas]


def noise_sigmas(steps: int) -> list[float]:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(steps)
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    return [*((1 - alphas) / alphas).sqrt().tolist(), 0.0]


def marks(computes: tuple[bool, ...]) -> str:
    return "".join("█" if one else "·" for one in computes)


@pytest.mark.parametrize("budget", [5, 6, 7])
def test_the_plan_is_the_best_of_all_that_obey_the_rules(budget: int) -> None:
    total, rules = 10, PlanRules(warmup=2, final=2, max_skips=4)
    features = np.random.default_rng(0).normal(size=(total, 3))
    errors = gap_errors(np.asarray(flow_sigmas(total)), True, features, rules)

    def cost(steps: tuple[int, ...]) -> float:
        triples = zip(steps, steps[1:], steps[2:], strict=False)
        most = rules.max_skips + 1
        return sum(errors[b - a, b, c - b] if max(b - a, c - b) <= most else np.inf for a, b, c in triples)

    between = itertools.combinations(range(2, total - 2), budget - 4)
    best = min(((0, 1, *chosen, total - 2, total - 1) for chosen in between), key=cost)
    assert cheapest(errors, total, budget, rules) == set(best)


@pytest.mark.parametrize(("sigmas", "flow"), [(flow_sigmas(50), True), (noise_sigmas(50), False)])
@pytest.mark.parametrize("compute", [0.8, 0.5, 0.32, 0.24])
def test_plans_keep_their_budget_and_their_rules(sigmas: list[float], flow: bool, compute: float) -> None:
    computes = plan_steps(sigmas, compute, flow=flow, rules=PlanRules(warmup=3, final=2, max_skips=6))
    assert len(computes) == 50 and sum(computes) == round(50 * compute)
    assert marks(computes).startswith("███") and marks(computes).endswith("██")
    assert "·······" not in marks(computes)


def gaps(computes: tuple[bool, ...]) -> list[int]:
    steps = [step for step, one in enumerate(computes) if one]
    return [later - sooner for sooner, later in itertools.pairwise(steps)]


@pytest.mark.parametrize(("sigmas", "flow"), [(flow_sigmas(50), True), (noise_sigmas(50), False)])
@pytest.mark.parametrize("compute", [0.5, 0.34, 0.24])
def test_no_gap_is_more_than_twice_as_long_as_the_one_before(sigmas: list[float], flow: bool, compute: float) -> None:
    found = gaps(plan_steps(sigmas, compute, flow=flow))
    assert all(later <= 2 * sooner for sooner, later in itertools.pairwise(found))


def test_an_even_plan_has_no_gap_far_longer_than_the_others() -> None:
    """One gap of seven steps late in a run spoilt plans that counted on models like the pocket models."""
    for compute in (0.5, 0.34, 0.28):
        assert max(gaps(plan_steps(flow_sigmas(50), compute, flow=True))) <= 1 / compute + 2


def test_without_features_gaps_are_even_in_steps_and_log_snr() -> None:
    """Twice the distance costs eight times as much, and steps in a row cost nothing."""
    rules = PlanRules(max_skips=3)
    levels = np.asarray([math.exp(3 - step) for step in range(7)] + [0.0])  # as even in log-SNR as in steps
    errors = uneven(levels, False, rules)
    assert errors[1, 0, 4] == pytest.approx(8 * errors[1, 1, 2])
    assert errors[2, 3, 1] == 0 and np.isinf(errors[1, 5, 2])


def test_a_run_from_clean_to_noise_is_planned_as_evenly() -> None:
    """Inversion: noise levels rise, so that every gap in log-SNR is negative."""
    falling = np.geomspace(15.0, 0.03, 30)
    gaps, mirrored = uneven(falling, False, PlanRules()), uneven(falling[0] / falling * falling[-1], False, PlanRules())
    assert mirrored == pytest.approx(gaps)


def test_a_budget_below_what_the_rules_ask_for_gives_the_sparsest_plan() -> None:
    computes = plan_steps(flow_sigmas(20), 0.0, flow=True, rules=PlanRules(max_skips=4))
    assert marks(computes) == "█···█····█····█····█" or sum(computes) == 5
    assert "·····" not in marks(computes)


@pytest.mark.parametrize("total", [1, 2])
def test_runs_too_short_to_skip_compute_everything(total: int) -> None:
    assert plan_steps(flow_sigmas(total), 0.1, flow=True) == (True,) * total


def test_features_move_the_computed_steps_to_where_the_answers_bend() -> None:
    """A planted model: straight lines in noise level, but for a kink at step 30."""
    sigmas = np.asarray(flow_sigmas(50))
    kink = np.maximum(sigmas[:-1] - sigmas[30], 0.0)
    computes = plan_steps(
        sigmas.tolist(),
        0.2,
        flow=True,
        features=np.stack([np.ones(50), sigmas[:-1], kink], 1),
        rules=PlanRules(),
    )
    assert sum(computes[29:32]) >= 2


def run(cache: accel.caching.CacheMethod, steps: int = 50, shift: float = 3.0) -> accel.Report:
    pipe = ToyPipeline(lambda latents, sigma: latents * sigma)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    with accel.accelerate(pipe, cache=cache) as session:
        pipe(num_inference_steps=steps)
        return session.report()


def test_a_run_follows_the_plan_for_its_own_noise_levels() -> None:
    for steps, shift in ((50, 3.0), (30, 1.0)):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(steps)
        expected = plan_steps([float(sigma) for sigma in scheduler.sigmas], 0.4, flow=True)
        assert run(OptimalSchedule(0.4), steps, shift).timeline() == {"pass 1": marks(expected)}


def test_everything_computes_at_one() -> None:
    assert run(OptimalSchedule(1.0)).predicted == 0


def test_a_list_of_noise_levels_means_the_same_at_another_step_count() -> None:
    mask = [int(computes) for computes in plan_steps(flow_sigmas(50), 0.32, flow=True)]
    schedule = StaticSchedule.from_mask(mask, flow_sigmas(50))
    assert run(schedule).timeline() == {"pass 1": marks(tuple(map(bool, mask)))}
    longer = run(schedule, steps=100)
    assert longer.computed == sum(mask)  # the last step is near the last of the list
    assert longer.timeline()["pass 1"][:8].count("█") <= mask[:5].count(1)


def test_listed_levels_take_steps_of_their_own() -> None:
    assert nearest_steps([1.0, 0.9, 0.88], [1.0, 0.9, 0.5, 0.0]) == {0, 1, 2}
    assert nearest_steps([0.9, 0.9], [1.0]) == {0}


@pytest.mark.parametrize("sigmas", [(), (-1.0,), (float("nan"),), [1.0], "1.0"])
def test_bad_lists_are_refused_in_a_sentence(sigmas: object) -> None:
    with pytest.raises(ValueError, match=r"StaticSchedule\.sigmas must be a tuple of noise levels"):
        StaticSchedule(sigmas)  # type: ignore[arg-type]


def test_a_mask_longer_than_its_noise_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="3 entries in the mask and only 2"):
        StaticSchedule.from_mask([1, 0, 1], [1.0, 0.5])


def test_extra_memory_of_the_default_method_is_four_latents() -> None:
    """Three computed outputs and the sum of the forecasts, in float32."""
    latent = torch.ones(ToyPipeline(lambda latents, _: latents).shape).nbytes
    assert run(OptimalSchedule(0.5)).levers[0].extra_bytes == 4 * latent
