"""8-bit floats: the arithmetic by torch's own slow product on a CPU, where no session uses it."""

from __future__ import annotations

import pytest
import torch

import accel
from accel import Float8
from accel.precision.methods import float8
from accel.precision.methods.float8 import Float8Format, is_right, rounded_floats
from tests.tiny import TINY, run

CPU = torch.device("cpu")


def test_rows_are_scaled_to_the_largest_value_there_is() -> None:
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    x[2] = 0
    numbers, scales = rounded_floats(x)
    assert numbers.float().abs().amax(1).tolist() == [448.0, 448.0, 0.0, 448.0, 448.0]
    assert torch.allclose(numbers.float() * scales, x, rtol=0.07, atol=1e-3)


@pytest.mark.skipif(not is_right(CPU), reason="this build of torch has no product of 8-bit floats on CPUs")
def test_a_layer_is_near_what_it_was() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 32), torch.randn(2, 9, 64)
    with torch.no_grad():
        output, right = Float8Format().compute(layer, x), layer(x)
    assert output.shape == right.shape and output.dtype == right.dtype
    assert 0 < (output - right).norm() < 0.05 * right.norm()


def test_a_product_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "float8_product", lambda rows, weights, bias: torch.ones(48, 32))
    is_right.cache_clear()
    try:
        assert not is_right(CPU)
    finally:
        is_right.cache_clear()


def test_a_cpu_is_left_alone_and_told_why() -> None:
    pipe = TINY["wan"].build()
    plain = run(pipe, TINY["wan"], steps=2)
    with accel.accelerate(pipe, accel.Recipe(precision=Float8(min_tokens=2))) as session:
        assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)
    (report,) = session.report().levers
    assert not report.engaged and "no products of 8-bit floats" in report.reason
