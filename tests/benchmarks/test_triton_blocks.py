"""The Triton kernel computes exactly what dense attention under the plan's mask does, in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported, which decides there
pytest.importorskip("triton", reason="Triton comes with torch for GPUs only")

from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.planner import HeadPlan
from tests.attention.masks import activations, error, first_text, inputs, masked, random_plan

SCALE = 0.3  # what `masked` takes
LAYOUTS = {
    "no text": TokenLayout(3, 4, 5),
    "text first": TokenLayout(3, 4, 5, text=4, text_first=True),
    "text last": TokenLayout(3, 4, 5, text=4),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Not bfloat16: the interpreter of Triton 3.9 multiplies its bits as integers.
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=["float32", "float16"]
)
@pytest.mark.parametrize("size", [pytest.param(4, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow), 60])
@pytest.mark.parametrize("form", ["identity", "shared", "own blocks", "own order"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_plan_is_its_mask(layout: TokenLayout, form: str, size: int, dtype: torch.dtype) -> None:
    from accel.attention.kernels import attend
    from benchmarks.triton_blocks import TritonBlocks

    plan = random_plan(layout, size, form)
    q, k, v = activations(layout, dtype=dtype)
    output = attend(inputs(layout, q, k, v), [HeadPlan(None, plan)], TritonBlocks())
    assert output.dtype == dtype
    assert error(output, masked(q, k, v, plan.mask())) < (1e-5 if dtype == torch.float32 else 2e-3)


@pytest.mark.parametrize("width", [80, *(pytest.param(width, marks=pytest.mark.slow) for width in (64, 128, 256))])
def test_heads_of_every_width_and_blocks_of_several_tiles(width: int) -> None:
    from benchmarks.triton_blocks import block_attention_forward

    layout = TokenLayout(4, 6, 8)
    plan = random_plan(layout, 96, "shared")
    q, k, v = (torch.randn(1, 2, layout.tokens, width) for _ in range(3))
    output, _ = block_attention_forward(q, k, v, plan, SCALE, first_text(layout, 0))
    assert error(output, masked(q, k, v, plan.mask())) < 1e-5


def test_the_log_sum_is_that_of_the_scores_that_are_seen() -> None:
    from benchmarks.triton_blocks import block_attention_forward

    layout = LAYOUTS["text last"]
    plan = random_plan(layout, 7, "own order")
    q, k, v = activations(layout)
    scale = q.shape[-1] ** -0.5
    _, sums = block_attention_forward(q, k, v, plan, scale, first_text(layout, layout.text))
    scores = (q @ k.mT * scale).masked_fill(~plan.mask(), -torch.inf)
    torch.testing.assert_close(sums[:, :, layout.video_rows], scores.logsumexp(-1)[:, :, layout.video_rows])


def test_padded_text_is_never_attended() -> None:
    from benchmarks.triton_blocks import block_attention_forward

    layout = LAYOUTS["text first"]
    plan: KeyPlan = random_plan(layout, 7, "shared")
    q, k, v = activations(layout)
    text = first_text(layout, 2)
    output, _ = block_attention_forward(q, k, v, plan, SCALE, text)
    mask = plan.mask().clone()
    mask[..., :, 2:4] = False
    rows = layout.video_rows
    assert error(output[:, :, rows], masked(q, k, v, mask)[:, :, rows]) < 1e-5
