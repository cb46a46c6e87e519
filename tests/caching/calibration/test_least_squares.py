"""Least squares in parts: the weights of a sum are found, whichever parts its rows arrive in."""

from __future__ import annotations

import pytest
import torch

from accel.caching.calibration.least_squares import SumEquations


def outputs(count: int, seed: int = 0) -> list[torch.Tensor]:
    """So many that resemble each other, as outputs of neighbouring steps do, (2, 50)."""
    draw = torch.Generator().manual_seed(seed)
    return [1.0 + 0.1 * torch.randn(2, 50, generator=draw, dtype=torch.float64) for _ in range(count)]


def summed(known: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    return sum((weight * one for weight, one in zip(weights, known, strict=True)), start=torch.zeros_like(known[0]))


@pytest.mark.parametrize("weights", [[1.0], [0.7], [2.0, -1.0], [3.0, -3.0, 1.0], [0.2, 0.5, -0.1, 0.9]])
def test_the_weights_of_a_sum_are_found(weights: list[float]) -> None:
    known = outputs(len(weights))
    assert SumEquations.of(known, summed(known, weights)).weights() == pytest.approx(weights, abs=1e-4)


def test_equations_of_several_runs_add_up() -> None:
    """Neither run alone tells: each sees one direction."""
    first, second = torch.eye(2, dtype=torch.float64)[:, None].unbind()
    parts = [SumEquations.of([one * 1.0, one * 2.0], one * (0.5 + 2.0 * 0.25)) for one in (first, second)]
    assert sum(share * size for share, size in zip((parts[0] + parts[1]).weights(), (1.0, 2.0), strict=True)) == (
        pytest.approx(1.0, abs=1e-4)
    )
    known, others = outputs(2, 1), outputs(2, 2)
    together = SumEquations.of(known, summed(known, [2.0, -1.0])) + SumEquations.of(others, summed(others, [2.0, -1.0]))
    assert together.weights() == pytest.approx([2.0, -1.0], abs=1e-4)


def test_outputs_that_say_nothing_leave_the_newest() -> None:
    still = torch.ones(1, 8)
    assert SumEquations.of([still, still, still], still).weights() == pytest.approx([1.0, 0.0, 0.0], abs=1e-5)
    assert SumEquations.of([0.0 * still, 0.0 * still], 0.0 * still).weights() == (1.0, 0.0)
