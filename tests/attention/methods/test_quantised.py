"""Attention in fewer bits: what each rounding costs, against formulas written out here and the dense answer."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from accel.attention.layout import TokenLayout
from accel.attention.methods import bfloat16
from accel.attention.methods.bfloat16 import Cast, GatheredProducts, LowPrecision, Products, products, smooth_keys
from accel.attention.methods.sliding_tile import tile_plan
from tests.attention.methods.quantised import Quantised, int8_blocks

FLOAT8 = torch.float8_e4m3fn


def activations(tokens: int = 300, width: int = 32, bias: float = 0.0, heads: int = 2) -> list[torch.Tensor]:
    """Queries, keys and values; the keys with the same strong outliers in all tokens, as trained models have."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, tokens, width, generator=draw) for _ in range(3))
    return [q, k + bias * torch.randn(width, generator=draw), v]


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def error(output: torch.Tensor, right: torch.Tensor) -> float:
    """Relative L1."""
    return float((output.float() - right).abs().sum() / right.abs().sum())


def test_taking_the_mean_from_the_keys_changes_nothing() -> None:
    q, k, v = (tensor.double() for tensor in activations(bias=5.0))
    torch.testing.assert_close(dense(q, smooth_keys(k), v), dense(q, k, v), atol=1e-12, rtol=0)
    q, k, v = activations(bias=1.0)
    torch.testing.assert_close(dense(q, smooth_keys(k), v), dense(q, k, v), atol=2e-6, rtol=0)


def test_every_block_has_the_scale_of_its_largest_value() -> None:
    tensor = activations()[0]
    tensor[:, :, 128:256] *= 100
    whole, scales = int8_blocks(tensor, 128)
    for start, stop in ((0, 128), (128, 256), (256, 300)):
        largest = tensor[:, :, start:stop].abs().amax((2, 3))
        torch.testing.assert_close(scales[:, :, start:stop, 0], (largest / 127)[..., None].expand(-1, -1, stop - start))
    assert whole.equal(whole.to(torch.int8).float()) and whole.abs().amax() == 127
    assert ((whole * scales - tensor).abs() <= scales / 2 * 1.001).all()


def test_logits_are_integer_products_times_two_scales() -> None:
    """The first 128 queries and 64 keys in int32 by hand, with nothing rounded after them."""
    q, k, v = activations(tokens=64)
    scale = 0.3
    a, b = q * scale, k - k.mean(2, keepdim=True)
    sizes = [tensor.abs().amax((2, 3), keepdim=True) / 127 for tensor in (a, b)]
    rows, keys = ((tensor / size).round().to(torch.int32) for tensor, size in zip((a, b), sizes, strict=True))
    logits = torch.einsum("bhqd,bhkd->bhqk", rows, keys) * sizes[0] * sizes[1]
    torch.testing.assert_close(Quantised(torch.float32)(q, k, v, scale), logits.softmax(-1) @ v, atol=1e-5, rtol=0)


def test_smoothing_pays_where_keys_have_a_common_bias() -> None:
    q, k, v = activations(bias=3.0)
    right, scale = dense(q, k, v), q.shape[-1] ** -0.5
    rough, fine = (error(Quantised(smooth=smooth)(q, k, v, scale), right) for smooth in (False, True))
    assert fine < 0.02 and rough > 2 * fine


@pytest.mark.parametrize(("weights", "least", "most"), [(torch.float16, 0.002, 0.02), (FLOAT8, 0.01, 0.05)])
@pytest.mark.parametrize("width", [32, 64, 128])
def test_errors_are_a_few_percent(weights: torch.dtype, least: float, most: float, width: int) -> None:
    q, k, v = activations(width=width)
    assert least < error(Quantised(weights)(q, k, v, width**-0.5), dense(q, k, v)) < most


def test_values_beyond_float16_overflow_as_they_do_on_a_gpu() -> None:
    q, k, v = activations()
    v[0, 0, 0, 0] = 1e5
    assert not Quantised()(q, k, v, 0.2).isfinite().all()
    assert Quantised(FLOAT8)(q, k, v, 0.2).isfinite().all()


@pytest.mark.part(1)
@pytest.mark.parametrize("kernel", [Quantised(), Products()], ids=lambda kernel: kernel.name)
def test_chunks_change_nothing(kernel: Quantised | Products, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = activations(heads=3)
    whole = kernel(q, k, v, 0.2)
    for size in (1, 50_000, 400_000):
        monkeypatch.setattr(f"{type(kernel).__module__}.CHUNK_BYTES", size)
        torch.testing.assert_close(kernel(q, k, v, 0.2), whole, atol=2e-2 * float(v.abs().max()), rtol=0)
        assert error(kernel(q, k, v, 0.2), whole) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_bfloat16(dtype: torch.dtype) -> None:
    q, k, v = (tensor.to(dtype) for tensor in activations(width=64, bias=3.0))
    before = [tensor.clone() for tensor in (q, k, v)]
    output = Products()(q.mT.contiguous().mT, k, v[..., :40], 0.125)  # any strides, any width of values
    assert output.dtype == dtype and all(map(torch.equal, before, (q, k, v)))
    assert error(output, dense(q.float(), k.float(), v[..., :40].float())) < 0.015


def test_products_of_bfloat16_are_spared_the_bias_of_the_keys() -> None:
    q, k, v = activations(width=64, bias=10.0)
    right = dense(q, k, v)
    assert error(products(q, k, v, 0.125), right) > 3 * error(Products()(q, k, v, 0.125), right)


def test_planned_products_follow_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = TokenLayout(4, 8, 9, text=5)
    plan = tile_plan(layout, (2, 4, 4), (1, 2, 2))
    q, k, v = activations(tokens=layout.tokens, bias=3.0)
    text = torch.arange(layout.tokens)[layout.text_rows][:-1]
    mask = plan.mask()
    mask[:, -1] = False  # the last text token is padding
    right = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    calls = []
    monkeypatch.setattr(bfloat16, "products", lambda *given: calls.append(given[0].dtype) or products(*given))
    assert error(GatheredProducts()(q, k, v, plan, 32**-0.5, text), right) < 0.015
    assert set(calls) == {torch.bfloat16}


def test_torchs_own_attention_in_another_type() -> None:
    q, k, v = activations()
    output = Cast(torch.float16)(q, k, v, 0.2)
    assert output.dtype == torch.float32
    assert 0 < error(output, F.scaled_dot_product_attention(q, k, v, scale=0.2)) < 2e-3


def test_gpus_take_it_for_models_in_32_bits_only() -> None:
    gpu = torch.device("cuda")
    kernels = LowPrecision("float16").kernels(gpu, torch.float32)
    assert [kernel.name for kernel in kernels if not isinstance(kernel, str)] == ["float16"]
    assert LowPrecision().kernels(gpu, torch.bfloat16) == "because they are in 16 bits already"
    assert LowPrecision().for_plans(gpu, torch.float32) is None
