"""Products of 8-bit integers are what their definition says, to the last bit."""

from __future__ import annotations

import pytest
import torch

from accel.precision import integers
from accel.precision.integers import Integers, PackedWeights, emulated, kernel, packed, product, rounded

fast = pytest.mark.skipif(not kernel("cpu"), reason="this processor has no instructions for 8-bit integers")
SHAPES = [(1, 8, 8), (5, 24, 40), (77, 72, 16), (300, 64, 200)]


def rows(count: int, width: int) -> torch.Tensor:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(count))
    x[:, 0] *= 30  # a channel far larger than the others
    x[count // 2] = 0
    return x


def unpacked(weight: torch.Tensor) -> PackedWeights:
    numbers, scales = rounded(weight)
    return PackedWeights(numbers, scales.flatten(), torch.zeros(len(scales), dtype=torch.int32))


def test_each_row_is_scaled_by_its_largest_value_and_rounded_to_the_nearest() -> None:
    x = rows(9, 24)
    numbers, scales = rounded(x)
    assert torch.equal(scales[:, 0], x.abs().amax(1).clamp_min(integers.LEAST) / 127)
    assert numbers.abs().amax(1).tolist() == [127 if row.any() else 0 for row in x]
    assert ((numbers * scales - x).abs() <= 0.501 * scales).all()


@pytest.mark.parametrize("chunk", [1, 24, 100])
def test_it_hangs_neither_on_chunks_nor_on_neighbours(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    x = rows(9, 24)
    whole = rounded(x)
    monkeypatch.setattr(integers, "CHUNK", chunk)
    assert all(map(torch.equal, rounded(x), whole))
    assert torch.equal(rounded(x[3:4]).numbers, whole.numbers[3:4])


def test_half_precision_is_rounded_from_what_it_holds() -> None:
    x = rows(9, 24).bfloat16()
    assert all(map(torch.equal, rounded(x), rounded(x.float())))


@fast
@pytest.mark.parametrize(("tokens", "width", "outputs"), SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_products_equal_wide_integers(tokens: int, width: int, outputs: int, biased: bool) -> None:
    x, weight = rows(tokens, width), rows(outputs, width)
    bias = torch.linspace(-1, 1, outputs) if biased else None
    plain, activations = unpacked(weight), rounded(x)
    right = emulated(activations.numbers, plain.numbers, plain.scales) * activations.scales
    right = right if bias is None else right + bias
    assert torch.equal(product(activations, packed(weight), bias), right)


@fast
@pytest.mark.parametrize("name", ["onednn", "torch"])
def test_the_largest_sums_are_exact(name: str) -> None:
    if kernel("cpu") != "onednn" and name == "onednn":
        pytest.skip("this build has no such kernel")
    numbers = torch.full((32, 4096), -127, dtype=torch.int8)
    weights = numbers.neg()
    scales = torch.ones(32)
    given = torch.ops.onednn.qlinear_prepack(weights, None) if name == "onednn" else weights
    held = PackedWeights(given, scales, torch.zeros(32, dtype=torch.int32))
    assert torch.equal(integers.KERNELS[name](numbers, held), emulated(numbers, weights, scales))


def test_a_kernel_that_gives_other_sums_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = dict(integers.KERNELS)
    wrong = {name: lambda *given, name=name: right[name](*given) + 1 for name in right}
    monkeypatch.setattr(integers, "KERNELS", wrong)
    kernel.cache_clear()
    try:
        assert kernel("cpu") == ""
    finally:
        kernel.cache_clear()


def test_the_product_of_what_was_rounded_is_near_that_of_what_was_given() -> None:
    x, weight = rows(64, 256), rows(32, 256)
    plain, activations = unpacked(weight), rounded(x)
    held = Integers(*activations)
    near = emulated(held.numbers, plain.numbers, plain.scales) * held.scales
    assert (near - x @ weight.T).norm() < 0.02 * (x @ weight.T).norm()
