"""Whether a kernel computes what a plan says, on this machine: on random activations and on rows of real ones."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from accel.attention.dense import all_text
from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan

if TYPE_CHECKING:
    from accel.attention.kernels import Kernel

LAYOUT = TokenLayout(2, 11, 16, text=5)  # 352 video tokens
BLOCK = 96  # neither whole mask blocks of a GPU kernel, nor a divisor of the tokens
ROWS = 16
# Largest error over the largest value: rounding of the data type. GPUs multiply float32 with 10 bits where allowed to.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
TOLERANCE_FLOAT32_GPU = 2e-3
TOLERANCE_16_BITS = 2e-2


def random_fault(kernel: Kernel, like: torch.Tensor, plan: KeyPlan) -> str | None:
    """What is wrong with a kernel on a small random attention of the same data type, head width and form of plan. Asked
    once in a process, because the answer is always the same.
    """
    return _random_fault(kernel, like.device, like.dtype, like.shape[-1], plan.order.dim(), plan.key_blocks.dim())


@functools.cache
def _random_fault(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int, order_dim: int, blocks_dim: int
) -> str | None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, LAYOUT.tokens, width, generator=draw).to(device, dtype) for _ in range(3))
    order = torch.full((4 * BLOCK,), -1)
    order[: LAYOUT.video] = torch.randperm(LAYOUT.video, generator=draw)
    order, key_blocks = order.view(4, BLOCK), torch.tensor([[0, 1, -1], [1, 2, 3], [3, -1, -1], [0, 2, 1]])
    if order_dim == 4:
        order = order.expand(1, 2, -1, -1)
    if blocks_dim == 4:
        key_blocks = torch.stack([key_blocks, key_blocks.flip(0)])[None]
    small = KeyPlan(LAYOUT, order.to(device), key_blocks.to(device))
    scale = width**-0.5
    text = all_text(LAYOUT, device)[:-1]
    mask = small.mask()
    mask[..., LAYOUT.tokens - 1] = False
    right = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, scale=scale)
    return _fault(kernel(q, k, v, small, scale, text).float() - right, v, "random activations")


def sampled_fault(
    output: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: KeyPlan,
    scale: float,
    text: torch.Tensor,
) -> str | None:
    """What is wrong with an output, looking at some of its rows."""
    return _fault(sampled_error(output, q, k, v, plan, scale, text), v, "the model's activations")


def sampled_error(
    output: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: KeyPlan,
    scale: float,
    text: torch.Tensor,
) -> torch.Tensor:
    """The largest error of a few rows, against attention in float32 written without any of the kernels' code."""
    samples, heads, _, _ = q.shape
    count, start = plan.order.shape[-2], plan.layout.video_rows.start
    order = plan.order.expand(samples, heads, -1, -1)
    key_blocks = plan.key_blocks.expand(samples, heads, -1, -1)
    draw = torch.Generator().manual_seed(0)
    worst = output.new_zeros((), dtype=torch.float32)
    for _ in range(ROWS):
        b, h, block = (int(torch.randint(limit, (), generator=draw)) for limit in (samples, heads, count))
        seen = key_blocks[b, h, block]
        tokens = order[b, h, seen[seen >= 0]].flatten()
        keys = torch.cat([tokens[tokens >= 0] + start, text])
        row = order[b, h, block, 0] + start
        weights = (k[b, h, keys].float() @ q[b, h, row].float() * scale).softmax(0)
        error = weights @ v[b, h, keys].float() - output[b, h, row].float()
        worst = torch.maximum(worst, error.abs().amax().nan_to_num(torch.inf))
    return worst


def _fault(error: torch.Tensor, v: torch.Tensor, where: str) -> str | None:
    share = float(error.abs().amax().nan_to_num(torch.inf) / v.abs().amax().clamp_min(1e-12).float())
    limit = TOLERANCE.get(v.dtype, TOLERANCE_16_BITS)
    if v.dtype == torch.float32 and v.device.type != "cpu":
        limit = TOLERANCE_FLOAT32_GPU
    return None if share <= limit else f"is off by {share:.0e} of the largest value on {where} (allowed: {limit:.0e})"
