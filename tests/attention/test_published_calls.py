"""xFormers and SageAttention are called as they are published to be called: by names and with values that they know."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from accel.attention.kernels import attend
from accel.attention.layout import TokenLayout
from accel.attention.methods.sage import FIRST_VERSION, VARIANTS, Sage, SageVariant
from accel.attention.planner import HeadPlan
from accel.attention.xformers import XFormers
from tests.attention import published
from tests.attention.masks import activations, error, inputs, masked, random_plan
from tests.attention.published import SAGE, PublishedFunction

CALLED = {variant.name: variant for row in VARIANTS.values() for variant in row} | {"sage 1": FIRST_VERSION}


@pytest.mark.parametrize("variant", CALLED.values(), ids=CALLED)
def test_sage_is_called_by_names_and_values_that_are_published(
    variant: SageVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def function(*args: Any, **options: Any) -> torch.Tensor:
        given = SAGE[variant.function].read(*args, **options)
        calls.append(given)
        assert given["q"].dtype in (torch.float16, torch.bfloat16) and given.get("tensor_layout", "HND") == "HND"
        assert all(given[name].stride(-1) == 1 and given[name].dtype == given["q"].dtype for name in "qkv")
        return F.scaled_dot_product_attention(given["q"], given["k"], given["v"], scale=given.get("sm_scale"))

    module = ModuleType(variant.package)
    monkeypatch.setattr(module, variant.function, function, raising=False)
    monkeypatch.setitem(sys.modules, variant.package, module)
    q, k, v = (torch.randn(1, 2, 50, 64).mT.contiguous().mT for _ in range(3))
    output = Sage(variant)(q, k, v, 0.2)
    assert len(calls) == 1
    assert error(output, F.scaled_dot_product_attention(q, k, v, scale=0.2)) < 3e-2


@pytest.mark.part(8)
@pytest.mark.parametrize("size", [4, 7, 60])
@pytest.mark.parametrize("form", ["identity", "shared", "own blocks", "own order"])
@pytest.mark.parametrize("text", [0, 4])
def test_xformers_is_called_as_published_and_told_the_plan(
    text: int, form: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("xformers", "xformers.ops", "xformers.ops.fmha", "xformers.ops.fmha.attn_bias"):
        monkeypatch.setitem(sys.modules, name, published)  # type: ignore[arg-type]
    torch.manual_seed(0)
    layout = TokenLayout(3, 4, 5, text=text)
    plan, (q, k, v) = random_plan(layout, size, form), activations(layout)
    output = attend(inputs(layout, q, k, v), [HeadPlan(None, plan)], XFormers())
    assert error(output, masked(q, k, v, plan.mask())) < 1e-5


def test_the_record_refuses_what_the_packages_would_ignore() -> None:
    function: PublishedFunction = SAGE["sageattn_qk_int8_pv_fp8_cuda_sm90"]
    with pytest.raises(TypeError, match="softmax_scale"):
        function.read(1, 2, 3, softmax_scale=0.1)
    with pytest.raises(ValueError, match="pv_accum_dtype"):
        function.read(1, 2, 3, pv_accum_dtype="fp16")
