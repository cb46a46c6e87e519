"""Solvers as weights: worked out by hand, and their order of convergence on an exactly known score."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from accel.samplers import AdamsBashforth, DPMSolver, Euler, PseudoCorrector, Sampler, SchedulerSolver, UniPC
from tests.samplers.mixture import even_log_snr, even_times, exact, noise, sampled, velocity

SOLVERS: dict[str, Sampler] = {
    "Euler": Euler(),
    "pseudo-corrector": PseudoCorrector(),
    "Adams-Bashforth 2": AdamsBashforth(),
    "Adams-Bashforth 3": AdamsBashforth(3),
    "DPM-Solver++ 1": DPMSolver(1),
    "DPM-Solver++ 2M": DPMSolver(),
    "UniPC-1": UniPC(1),
    "UniPC-2": UniPC(),
    "UniPC-3": UniPC(3),
}
ORDERS = {
    "Euler": 1,
    "pseudo-corrector": 2,
    "Adams-Bashforth 2": 2,
    "Adams-Bashforth 3": 3,
    "DPM-Solver++ 1": 1,
    "DPM-Solver++ 2M": 2,
    "UniPC-1": 2,  # the corrector is worth one order
    "UniPC-2": 3,
    "UniPC-3": 4,
}
every_solver = pytest.mark.parametrize("name", SOLVERS)
UNEVEN = (0.9, 0.8, 0.55, 0.5)


@pytest.mark.part(2)
@every_solver
def test_order_of_convergence_on_an_exact_score(name: str) -> None:
    """Halving the steps divides the error by 2 to the order: the slope of the last doublings is the order."""
    grid = even_times if SOLVERS[name].space == "velocity" else even_log_snr
    start, steps = noise(), (40, 80, 160)
    truth = exact(grid(40), start)
    solver = SOLVERS[name]
    errors = [float((sampled(solver, grid(n), start, given=solver.depth - 1) - truth).norm()) for n in steps]
    slopes = [math.log2(one / two) for one, two in pairwise(errors)]
    print(f"{name}: errors {[f'{error:.1e}' for error in errors]}, slopes {[f'{slope:.2f}' for slope in slopes]}")
    assert slopes[-1] == pytest.approx(ORDERS[name], abs=0.35)


@pytest.mark.part(40)
@every_solver
@pytest.mark.parametrize("known", [1, 2, 3, 4])
@pytest.mark.parametrize("remaining", [1, 2, 9])
def test_a_path_with_one_clean_picture_and_one_noise_is_followed_exactly(name: str, known: int, remaining: int) -> None:
    """Where x0 and the noise never change, every update of every order is exact, however uneven the steps."""
    solver, times, following = SOLVERS[name], UNEVEN[:known][-SOLVERS[name].depth :], 0.3
    clean, noise = 2.0, -1.0
    answer = noise - clean if solver.space == "velocity" else clean
    keep, weights, _ = solver.weights(times, following, remaining)
    x = (1 - times[-1]) * clean + times[-1] * noise
    assert keep * x + sum(weights) * answer == pytest.approx((1 - following) * clean + following * noise, abs=1e-12)


@every_solver
def test_the_last_step_to_no_noise_is_finite_and_the_first_from_pure_noise_too(name: str) -> None:
    for times, following in (((1.0,), 0.9), ((1.0, 0.9), 0.5), ((0.5, 0.1), 0.0), ((0.1,), 0.0)):
        keep, weights, _ = SOLVERS[name].weights(times[-SOLVERS[name].depth :], following, 1 if following == 0 else 5)
        assert all(math.isfinite(value) for value in (keep, *weights))


@pytest.mark.parametrize("name", ["DPM-Solver++ 1", "DPM-Solver++ 2M", "UniPC-2", "UniPC-3"])
def test_log_snr_solvers_end_at_the_clean_estimate(name: str) -> None:
    keep, weights, _ = SOLVERS[name].weights((0.5, 0.3, 0.1)[-SOLVERS[name].depth :], 0.0, 1)
    assert keep == 0.0
    assert weights[-1] == pytest.approx(1.0) and weights[:-1] == pytest.approx([0.0] * (len(weights) - 1))


def test_adams_bashforth_has_the_textbook_weights_where_steps_are_even() -> None:
    _, two, _ = AdamsBashforth(2).weights((0.6, 0.5), 0.4, 4)
    assert two == pytest.approx([0.1 / 2, -0.1 * 3 / 2])
    _, three, _ = AdamsBashforth(3).weights((0.7, 0.6, 0.5), 0.4, 4)
    assert three == pytest.approx([-0.1 * 5 / 12, 0.1 * 16 / 12, -0.1 * 23 / 12])


@pytest.mark.parametrize("order", [2, 3])
def test_adams_bashforth_integrates_polynomials_exactly_whatever_the_steps(order: int) -> None:
    times, following = UNEVEN[-order:], 0.2
    _, weights, _ = AdamsBashforth(order).weights(times, following, 4)
    for degree in range(order):
        area = (following ** (degree + 1) - times[-1] ** (degree + 1)) / (degree + 1)
        assert sum(w * t**degree for w, t in zip(weights, times, strict=True)) == pytest.approx(area)


def test_the_pseudo_corrector_is_the_papers_two_line_recursion() -> None:
    """x_i = x_(i-1) + h (v_(i-1) + v_i) / 2, with v_i taken at the Euler point, which is what the pipeline holds."""
    times = [1.0, 0.93, 0.7, 0.66, 0.4, 0.1, 0.0]
    corrected, v, held = noise(), None, noise()
    for index, (time, following) in enumerate(pairwise(times)):
        new = velocity(held, time)
        if v is not None:
            corrected = corrected + (time - times[index - 1]) * (v + new) / 2
        held, v = corrected + (following - time) * new, new
    torch.testing.assert_close(sampled(PseudoCorrector(), times, noise(), to_the_end=True), held, rtol=0, atol=1e-12)


def test_first_order_solvers_are_euler() -> None:
    times = [1.0, 0.8, 0.5, 0.2, 0.0]
    torch.testing.assert_close(
        sampled(DPMSolver(1), times, noise(), to_the_end=True), sampled(Euler(), times, noise()), rtol=0, atol=1e-12
    )


@pytest.mark.slow  # what it hangs on, the orders of convergence, is tested above
@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["pseudo-corrector", "Adams-Bashforth 2", "UniPC-2"])
def test_twenty_steps_are_nearer_to_the_truth_than_fifty_of_euler(name: str) -> None:
    """From pure noise to the end, with the shift of 3 that flow models use."""

    def times(steps: int) -> list[float]:
        even = [1.0 - k / steps for k in range(steps + 1)]
        return [3 * time / (1 + 2 * time) for time in even]

    start = noise()
    truth = sampled(PseudoCorrector(), times(4000), start)
    found = sampled(SOLVERS[name], times(20), start, to_the_end=True)
    euler = sampled(Euler(), times(50), start)
    print(f"{name}: {float((found - truth).norm()):.4f}, Euler at 50: {float((euler - truth).norm()):.4f}")
    assert (found - truth).norm() < (euler - truth).norm()


@pytest.mark.parametrize("wrong", [0, 4, 2.5, True, "2"])
def test_orders_out_of_range_are_refused_in_one_sentence(wrong: object) -> None:
    for solver in (UniPC, DPMSolver, AdamsBashforth):
        with pytest.raises(ValueError, match="order must be a whole number from"):
            solver(wrong)


def test_a_share_of_the_steps_is_above_zero_and_at_most_all_of_them() -> None:
    for wrong in (0.0, 1.5, -1, math.nan):
        with pytest.raises(ValueError, match="steps must be a number from"):
            SchedulerSolver(steps=wrong)
